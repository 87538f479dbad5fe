/**
 * What the launcher and its children tell each other over Node's IPC channel (`process.send`).
 * It uses `serialization: "advanced"`, so NaN and Infinity in metrics survive. Its closing
 * ('disconnect') means that the launcher is gone: a child then exits.
 */
import { z } from "zod";

/** A share with its 95 % interval; all three in [0, 1]. */
const accuracy = z.object({
  accuracy: z.number(),
  ci95: z.tuple([z.number(), z.number()]).readonly(),
  /** Problems answered. */
  n: z.int(),
  /** A digit for each problem, in order: 1 where it was answered rightly. */
  right: z.string().exactOptional(),
});
export type Accuracy = z.infer<typeof accuracy>;

/** Held-out accuracy by decoding mode: one sample at the training temperature, and greedy. */
export const validationSchema = z.object({ sampled: accuracy.exactOptional(), greedy: accuracy.exactOptional() });
export type Validation = z.infer<typeof validationSchema>;

/** The contents of summary.json. */
export const summarySchema = z.object({
  algo: z.enum(["grpo", "ppo"]),
  validation: z.object({ before: validationSchema.exactOptional(), after: validationSchema.exactOptional() }),
  /** Training iterations done, those before a resume included. */
  iterations: z.int(),
  /** Wall time of all sessions of this run, evaluation included. */
  wall_seconds: z.number(),
  /** The part of it that training iterations took. */
  train_seconds: z.number(),
  /** tfjs backend of the learner. */
  backend: z.string(),
  /** Commit of the program; null outside a git checkout. */
  commit: z.string().nullable(),
  /** Path of the last checkpoint, relative to the run directory; null if none was written. */
  checkpoint: z.string().nullable(),
  /** True when the run was asked to stop before max_steps. */
  stopped: z.boolean(),
});
export type RunSummary = z.infer<typeof summarySchema>;

/** Metrics as in metrics.jsonl: TRL's names, durations in seconds, shares in [0, 1]. */
export type Metrics = Readonly<Record<string, number>>;

/** Environment variable in which an actor finds the token of its run. */
export const TOKEN_VARIABLE = "FINELLAMA_RUN_TOKEN";

/** Learner and actors give a life sign this often. */
export const LIFE_SIGN_MS = 1_000;

/** Learner → launcher. Actors send "alive", "error" and "log" only. */
export type ProgressEvent =
  /** A life sign of the event loop, once a second. */
  | { readonly type: "alive" }
  /** The learner's sockets are bound; actors may start. Not sent with --serial. */
  | { readonly type: "listening"; readonly work: string; readonly weights: string; readonly token: string }
  /** The learner has its model; training goes on after `iteration` completed ones. */
  | { readonly type: "ready"; readonly backend: string; readonly parameters: number; readonly iteration: number }
  /** What is being done outside iterations; `done` of `total` when it can be counted. */
  | { readonly type: "phase"; readonly name: string; readonly done?: number; readonly total?: number }
  /** Iteration `iteration` (from 1) of `maxSteps` is complete. */
  | { readonly type: "iteration"; readonly iteration: number; readonly maxSteps: number; readonly metrics: Metrics }
  /** One evaluation in one mode; `when` may be the number of iterations completed. */
  | ({
      readonly type: "validation";
      readonly when: "before" | "after" | number;
      readonly mode: "sampled" | "greedy";
    } & Accuracy)
  /** A line for the user, shown as it is. */
  | { readonly type: "log"; readonly message: string }
  /** The sender will exit non-zero. `user`: a UserError; else a defect, its stack logged. */
  | { readonly type: "error"; readonly message: string; readonly user: boolean }
  /** The run ended well (or was stopped); summary.json is on disk. The sender exits 0. */
  | { readonly type: "done"; readonly summary: RunSummary };

/**
 * Launcher → child. After "stop" the learner writes a checkpoint and exits 0; an actor just exits.
 * After "checkpoint" the learner writes one when the iteration at hand is done, and goes on.
 */
export type LauncherMessage = { readonly type: "stop" } | { readonly type: "checkpoint" };
