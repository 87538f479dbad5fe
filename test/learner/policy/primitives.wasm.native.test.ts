import { primitivesSuite } from "../../support/primitives-suite.js";

primitivesSuite("wasm");
