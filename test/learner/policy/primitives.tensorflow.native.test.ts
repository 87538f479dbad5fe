import { existsSync } from "node:fs";
import { test } from "vitest";
import { nativeBindingPath } from "../../../src/machine/native-binding.js";
import { primitivesSuite } from "../../support/primitives-suite.js";

if (existsSync(nativeBindingPath())) primitivesSuite("tensorflow");
else
  test.skip(`TensorFlow's native binding is not there (${nativeBindingPath()}); \`npm run setup\` prepares it`, () => {});
