/** Chooses and prints the seed of all property tests of a test run; FC_SEED repeats one. */
import { randomInt } from "node:crypto";

/** Vitest calls this once a project; the first call chooses for all. */
export default function setup(): void {
  if (process.env["FC_SEED"] !== undefined) return;
  process.env["FC_SEED"] = String(randomInt(2 ** 31));
  console.log(`property tests draw from FC_SEED=${process.env["FC_SEED"]}`);
}
