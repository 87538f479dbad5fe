/** Set-up of every test file: property tests draw from the seed that seed.ts has printed. */
import fc from "fast-check";

fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(process.env["FC_SEED"]) });
