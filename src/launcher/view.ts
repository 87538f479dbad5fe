/** Shows a run while it goes: a live frame on a terminal, plain lines elsewhere. */
import { createLogUpdate } from "log-update";
import type { ProgressEvent } from "../protocol/progress.js";
import {
  frame,
  headline,
  initialState,
  plainIteration,
  rewardNote,
  update,
  validationLine,
  type RunHeader,
} from "./render.js";

export interface View {
  readonly event: (event: ProgressEvent) => void;
  /** A line that stays. */
  readonly note: (line: string) => void;
  readonly actors: (running: number, restarts: number) => void;
  /** Leaves the last state on the screen and stops drawing. */
  readonly close: () => void;
}

const REDRAW_MS = 500;

/** The view that suits `stream`: live on a terminal wide enough for it, plain lines otherwise. */
export function createView(
  stream: NodeJS.WriteStream,
  header: RunHeader,
  maxSteps: number,
  now: () => number = () => performance.now(),
  env: NodeJS.ProcessEnv = process.env,
): View {
  // a job of CI keeps every frame, and a dumb terminal cannot move the cursor
  const plain = env["TERM"] === "dumb" || !["", "0", "false"].includes(env["CI"] ?? "");
  return stream.isTTY && stream.columns >= 40 && !plain
    ? liveView(stream, header, maxSteps, now)
    : plainView((line) => stream.write(`${line}\n`), header, maxSteps, now);
}

function liveView(stream: NodeJS.WriteStream, header: RunHeader, maxSteps: number, now: () => number): View {
  const state = initialState(header, maxSteps, now());
  const log = createLogUpdate(stream);
  const draw = () =>
    log(
      frame(state, stream.columns - 1, now())
        .slice(0, stream.rows - 1)
        .join("\n"),
    );
  const timer = setInterval(draw, REDRAW_MS);
  stream.on("resize", draw);
  draw();
  const note = (line: string) => {
    log.clear();
    stream.write(`${line}\n`);
    draw();
  };
  return {
    note,
    event: (event) => {
      update(state, event, now());
      const line = event.type === "log" ? event.message : rewardNote(state, event);
      if (line !== undefined) note(line);
      else draw();
    },
    actors: (running, restarts) => {
      state.actors = { running, restarts };
      draw();
    },
    close: () => {
      clearInterval(timer);
      stream.off("resize", draw);
      delete state.phase;
      draw();
      log.done();
    },
  };
}

/** Plain lines: one per iteration, per evaluation, and at the beginning of each phase. */
export function plainView(write: (line: string) => void, header: RunHeader, maxSteps: number, now: () => number): View {
  const state = initialState(header, maxSteps, now());
  write(headline({ header }));
  return {
    note: write,
    event: (event) => {
      const samePhase = event.type === "phase" && event.name === state.phase?.name;
      update(state, event, now());
      if (event.type === "ready")
        write(
          `learner ready: ${event.backend}, ${(event.parameters / 1e6).toFixed(2)} M parameters${event.iteration > 0 ? `, continuing after step ${event.iteration}` : ""}`,
        );
      if (event.type === "phase" && !samePhase)
        write(event.total === undefined ? event.name : `${event.name} (${event.total})`);
      if (event.type === "iteration") write(plainIteration(state, now()));
      if (event.type === "validation") write(validationLine(event));
      const line = event.type === "log" ? event.message : rewardNote(state, event);
      if (line !== undefined) write(line);
    },
    // a log event reports restarts
    actors: () => {},
    close: () => {},
  };
}
