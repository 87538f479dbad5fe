import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

const needLibraries = ["test/**/*.native.test.ts", "test/integration/**/*.test.ts"];

export default defineConfig({
  test: {
    globalSetup: "test/support/seed.ts",
    setupFiles: "test/support/setup.ts",
    // a process per file: TensorFlow and ONNX Runtime keep their threads and settings per process
    pool: "forks",
    // one more than cores: many tests wait for processes, silences and signals
    maxWorkers: availableParallelism() + 1,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      // neither a native library nor dist/: files may share a process, and its loaded modules
      { extends: true, test: { name: "unit", include: ["test/**/*.test.ts"], exclude: needLibraries, isolate: false } },
      { extends: true, test: { name: "integration", include: needLibraries } },
    ],
    // of the unit tests alone: the others run the program in processes of its own
    coverage: { provider: "v8", include: ["src/**"], reporter: ["text-summary"] },
  },
});
