/**
 * Where SmolLM2-135M-Instruct lies, if it does: test/reference/smollm2_model.py makes its folder,
 * too large to be committed.
 */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

export const smollm2Place =
  process.env["FINELLAMA_SMOLLM2"] ?? join(homedir(), ".cache/finellama-rl/smollm2-135m-instruct");
/** Undefined when it is not there. */
export const smollm2Folder = existsSync(join(smollm2Place, "model.safetensors")) ? smollm2Place : undefined;
