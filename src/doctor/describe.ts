/** Formats the findings of inspect.ts and gaps.ts as text, for `doctor` and for `launch`. */
import { type CudaGap, cpuWorks, cudaGaps } from "./gaps.js";
import { type MachineFacts, inspectMachine } from "./inspect.js";

const BUILD = { cpu: ", CPU build", cuda: ", CUDA build", own: ", own build" };

export function describeMachine(machine: MachineFacts, gaps: readonly CudaGap[]): string {
  const { learner, actors } = machine;
  const lines: (readonly [string, string])[] = [
    [
      "machine",
      `node ${machine.node.slice(1)}, ${machine.platform}, ${machine.cores} cores, ${(machine.ramBytes / 1e9).toFixed(0)} GB RAM`,
    ],
    ["NVIDIA driver", machine.driver ?? "none"],
    ["GPUs", machine.gpus.map(gpuText).join(", ") || "none"],
    ["visible", machine.visibleGpus.join(", ") || "none"],
    [
      "learner",
      learner.backend === null
        ? "no backend"
        : `${learner.backend.library} on the ${learner.backend.usesGpu ? "GPU" : "CPU"}${learner.build === null ? "" : BUILD[learner.build]}`,
    ],
    ...learner.passedOver.map((why) => ["  passed over", why] as const),
    ...libraryLines(learner.libraries),
    [
      "actors",
      `ONNX Runtime ${actors.onnxruntime}, CUDA provider ${actors.provider === null ? "not installed" : `for CUDA ${actors.provider}`}`,
    ],
    ...Object.entries(actors.providers).map(([name, why]) => [`  provider ${name}`, why ?? "computes"] as const),
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

const gpuText = ({ name, memoryMiB }: MachineFacts["gpus"][number]): string =>
  memoryMiB === null ? name : `${name} (${(memoryMiB / 1024).toFixed(0)} GiB)`;

const libraryLines = (libraries: MachineFacts["learner"]["libraries"]): [string, string][] =>
  libraries.map(({ name, path }) => [`  ${name}`, path ?? "not found"]);

/** @returns null when the sides that ask for CUDA can use it, else what is missing and a report */
export async function whyNoCuda(
  sides: readonly Exclude<CudaGap["side"], "both">[],
): Promise<{ readonly missing: string; readonly report: string } | null> {
  const machine = await inspectMachine();
  const gaps = cudaGaps(machine).filter(({ side }) => side === "both" || sides.includes(side));
  const [first] = gaps;
  return first === undefined ? null : { missing: first.missing, report: describeMachine(machine, gaps) };
}
