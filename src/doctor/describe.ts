/**
 * What inspect.ts found and gaps.ts misses, in lines for people: doctor's report, also where CUDA
 * was asked for in vain.
 */
import { type CudaGap, cpuWorks } from "./gaps.js";
import type { MachineFacts } from "./inspect.js";

const BUILD = { cpu: ", CPU build", cuda: ", CUDA build", own: ", own build" };

/** The report, in lines. */
export function describeMachine(machine: MachineFacts, gaps: readonly CudaGap[]): string {
  const { learner, actors } = machine;
  const lines: [string, string][] = [
    [
      "machine",
      `node ${machine.node.slice(1)}, ${machine.platform}, ${machine.cores} cores, ${(machine.ramBytes / 1e9).toFixed(0)} GB RAM`,
    ],
    ["NVIDIA driver", machine.driver ?? "none"],
    [
      "GPUs",
      machine.gpus
        .map(({ name, memoryMiB }) => `${name}${memoryMiB === null ? "" : ` (${(memoryMiB / 1024).toFixed(0)} GiB)`}`)
        .join(", ") || "none",
    ],
    ["visible", machine.visibleGpus.join(", ") || "none"],
    [
      "learner",
      learner.backend === null
        ? "no backend"
        : `${learner.backend.library} on the ${learner.backend.usesGpu ? "GPU" : "CPU"}${learner.build === null ? "" : BUILD[learner.build]}`,
    ],
    ...learner.passedOver.map((why): [string, string] => ["  passed over", why]),
    ...libraryLines(learner.libraries),
    [
      "actors",
      `ONNX Runtime ${actors.onnxruntime}, CUDA provider ${actors.provider === null ? "not installed" : `for CUDA ${actors.provider}`}`,
    ],
    ...Object.entries(actors.providers).map(([name, why]): [string, string] => [
      `  provider ${name}`,
      why ?? "computes",
    ]),
    ...libraryLines(actors.libraries),
  ];
  const width = Math.max(...lines.map(([name]) => name.length));
  return [
    ...lines.map(([name, text]) => `${name.padEnd(width)}  ${text}`),
    "",
    ...(gaps.length === 0
      ? ["CUDA can be used by learner and actors."]
      : [
          "CUDA cannot be used as it is; in this order:",
          ...gaps.map(({ side, missing, cure }) => `- ${side === "both" ? "" : `${side}: `}${missing}\n  ${cure}`),
        ]),
    cpuWorks(machine) ? "The CPU path works." : "The CPU path does not work either.",
  ].join("\n");
}

const libraryLines = (libraries: MachineFacts["learner"]["libraries"]): [string, string][] =>
  libraries.map(({ name, path }) => [`  ${name}`, path ?? "not found"]);
