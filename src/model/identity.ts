/** What travels to actors: the policy, or LoRA adapters alone. The hash is of what was loaded. */
import { createHash } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import type { ModelConfig } from "./config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "./layout.js";
import { loraLayout, type LoraSpec } from "./lora.js";

/** A policy: how many training iterations made it, and the hash of its weights. */
export interface PolicyVersion {
  readonly iteration: number;
  readonly sha256: string;
}

/** sha256 over lines `name dtype [d0,d1] hexdigest\n`, sorted by name: the order plays no part. */
export function hashPacked(packed: Float32Array, layout: readonly LayoutEntry[]): string {
  return hashOfLines(layout.map((entry) => hashLine(entry, packed.subarray(entry.offset, entry.offset + entry.size))));
}

/** The line of one tensor; `hashOfLines` takes those of all tensors, in any order. */
export function hashLine(entry: LayoutEntry, values: Float32Array): string {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const digest = createHash("sha256").update(bytes).digest("hex");
  return `${entry.name} F32 [${entry.shape.join(",")}] ${digest}\n`;
}

export function hashOfLines(lines: readonly string[]): string {
  return createHash("sha256")
    .update([...lines].sort().join(""))
    .digest("hex");
}

export function publishedLayout(shape: ModelConfig, lora: LoraSpec | null): LayoutEntry[] {
  return lora === null ? weightLayout(shape) : loraLayout(shape, lora);
}

/** @param baseSha256 hash of the frozen base; null without LoRA */
export function publishedHash(packed: Float32Array, layout: readonly LayoutEntry[], baseSha256: string | null): string {
  if (packed.length !== layoutSize(layout))
    throw new Error(`${packed.length} published values, the layout has ${layoutSize(layout)}`);
  const sha256 = hashPacked(packed, layout);
  if (baseSha256 === null) return sha256;
  return createHash("sha256").update(`base ${baseSha256}\nadapter ${sha256}\n`).digest("hex");
}

/** Read piece by piece: a training state may exceed memory, and readFileSync's 2 GiB. */
export function sha256OfFile(file: string): string {
  const hash = createHash("sha256");
  const piece = Buffer.allocUnsafe(4 << 20);
  const fd = openSync(file, "r");
  try {
    for (let read = readSync(fd, piece); read > 0; read = readSync(fd, piece)) hash.update(piece.subarray(0, read));
  } finally {
    closeSync(fd);
  }
  return hash.digest("hex");
}
