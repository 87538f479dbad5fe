/** Set-up of a whole test run: chooses and prints the seed of all property tests; FC_SEED repeats one. */
import { randomInt } from "node:crypto";

export default function setup(): void {
  process.env["FC_SEED"] ??= String(randomInt(2 ** 31));
  console.log(`property tests draw from FC_SEED=${process.env["FC_SEED"]}`);
}
