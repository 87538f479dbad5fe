import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/seed.ts",
    setupFiles: "test/support/setup.ts",
    // a process per file: TensorFlow and ONNX Runtime keep their threads and settings per process
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
