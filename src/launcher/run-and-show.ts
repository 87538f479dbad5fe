/** Supervises the processes of a run under a view and under signals. */
import { appendFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { shortPath } from "../config/load.js";
import type { RunConfig } from "../config/schema.js";
import { cudaLibraryPath } from "../machine/cuda-libraries.js";
import { visibleGpus } from "../machine/devices.js";
import { smiList } from "../machine/gpus.js";
import { actorLibraryPath } from "../machine/onnx-provider.js";
import { removeAbandoned, removeLeftoversOf } from "../protocol/leftovers.js";
import { heedSignals } from "../run/children.js";
import { logFile } from "../run/paths.js";
import { assignDevices } from "./assign-devices.js";
import { report, type RunHeader } from "./render.js";
import type { LaunchFlags } from "./resolve-run.js";
import { type SuperviseOptions, Supervisor } from "./supervise.js";
import { planThreads } from "./threads.js";
import { type View, createView, plainView } from "./view.js";

/** @returns the exit code */
export async function runAndShow(
  run: RunConfig,
  runDir: string,
  flags: LaunchFlags,
  scripts: SuperviseOptions["scripts"],
): Promise<number> {
  const { serial } = run;
  const threads = planThreads(availableParallelism(), run, serial);
  const header = {
    runDir: shortPath(runDir),
    algo: run.algo,
    model: shortPath(run.model.path),
    serial,
    numActors: run.actors.num,
    threads,
  };
  const view = createView(process.stdout, header, run.max_steps);
  const record = recordedView(logFile(runDir, "launcher"), header, run.max_steps);
  removeAbandoned();
  // before there is a child: a signal that comes meanwhile is heard once the supervisor is there
  const signals = heedSignals(
    (signal) => {
      const line = `${signal}: writing a checkpoint, then stopping. Once more kills everything at once.`;
      record.note(line);
      view.note(line);
      supervised.stop();
    },
    () => supervised.kill(),
    (signal) => {
      view.note(`${signal}: a checkpoint is written after the iteration at hand.`);
      supervised.checkpoint();
    },
  );
  const supervised: Supervisor = new Supervisor({
    runDir,
    run,
    threads,
    devices: assignDevices(visibleGpus(process.env, smiList()), run, serial),
    libraryPath: { learner: cudaLibraryPath("12"), actor: actorLibraryPath() },
    scripts,
    resume: flags.resume !== undefined,
    debug: flags.debug === true,
    onEvent: (event) => {
      record.event(event);
      view.event(event);
    },
    onActors: view.actors,
    cleanUpAfter: removeLeftoversOf,
  });
  const { summary, failure } = await supervised.ended;
  signals.release();
  view.close();
  if (summary !== undefined) process.stdout.write(`${report(summary, shortPath(runDir))}\n`);
  else if (failure === undefined) process.stdout.write("Stopped before anything was learned: nothing to save.\n");
  if (failure === undefined) return signals.exitCode() ?? 0;
  record.note(`error: ${failure}`);
  process.stderr.write(`error: ${failure}\n`);
  return 1;
}

/** The plain view in a file: it is there when a terminal or a pipe is not, or no longer. */
function recordedView(file: string, header: RunHeader, maxSteps: number): View {
  const write = (line: string): void => {
    try {
      appendFileSync(file, `${line}\n`);
    } catch {
      // a full disk: the terminal says so
    }
  };
  return plainView(write, header, maxSteps, () => performance.now());
}
