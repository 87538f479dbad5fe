/**
 * What travels from learner to actors, and its identity: the whole policy, or with LoRA the
 * adapters alone (the base is read from disk by both sides, and its hash is part of the version's).
 */
import type { ModelConfig } from "./config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "./layout.js";
import { loraLayout, type LoraSpec } from "./lora.js";
import { hashPacked, hashPair } from "./weights.js";

/** Layout of the published buffer. */
export function publishedLayout(config: ModelConfig, lora: LoraSpec | null): LayoutEntry[] {
  return lora === null ? weightLayout(config) : loraLayout(config, lora);
}

/** @param baseSha256 hash of the frozen base; null without LoRA */
export function publishedHash(packed: Float32Array, layout: readonly LayoutEntry[], baseSha256: string | null): string {
  if (packed.length !== layoutSize(layout))
    throw new Error(`${packed.length} published values, the layout has ${layoutSize(layout)}`);
  const sha256 = hashPacked(packed, layout);
  return baseSha256 === null ? sha256 : hashPair(baseSha256, sha256);
}
