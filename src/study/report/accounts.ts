/** What each run spent, and what went wrong in it. */
import { sum } from "../../math/statistics.js";
import { spentBy } from "../curve.js";
import type { ReportedRun } from "./gather.js";

/** What one run spent; shares are of its training completions. */
export type Account = ReturnType<typeof account>;

export function account(run: ReportedRun) {
  const { config, metrics, summary } = run;
  const all = (key: string): number[] => metrics.flatMap((line) => line[key] ?? []);
  const seconds = sum(all("iteration_seconds"));
  const weighted = (key: string, weight: (line: Readonly<Record<string, number>>) => number): number => {
    const total = sum(metrics.map(weight));
    return total === 0 ? 0 : sum(metrics.map((line) => (line[key] ?? 0) * weight(line))) / total;
  };
  const share = (key: string): number => weighted(key, () => 1);
  const timeOf = (line: Readonly<Record<string, number>>): number => line.iteration_seconds ?? 0;
  const [correct, unparsed, truncated] = [share("accuracy"), share("outcome/unparsed"), share("outcome/truncated")];
  const last = metrics.at(-1) ?? {};
  const totals = (prefix: string): number =>
    sum(Object.entries(last).flatMap(([key, value]) => (key.startsWith(prefix) ? value : [])));
  const gaps = all("sampling/actor_learner_logprob_gap/max");
  return {
    run: run.name,
    iterations: metrics.length,
    completions: metrics.length * config.generation_batch_size,
    /** Null in files that do not say. */
    tokens: spentBy(metrics).get(last.iteration ?? 0)?.tokens ?? null,
    train_seconds: seconds,
    /** With evaluations and checkpoints. */
    wall_seconds: summary?.wall_seconds ?? last.wall_seconds ?? 0,
    /** Means over iterations, weighted by their time. */
    tokens_per_second: weighted("tokens_per_second", timeOf),
    idle_learner: weighted("idle/learner", timeOf),
    idle_actor: weighted("idle/actor", timeOf),
    outcomes: { correct, wrong: Math.max(0, 1 - correct - unparsed - truncated), unparsed, truncated },
    reward_errors: sum(all("reward_errors")),
    filtered_groups: sum(all("filtered_groups")),
    /** Answers refused and leases taken back, since the last start of the learner. */
    refused_groups: totals("groups_refused_"),
    released_leases: totals("tasks_released_"),
    skipped_updates: last.skipped_updates ?? 0,
    max_staleness: Math.max(0, ...all("staleness/max")),
    /** Largest difference of actor and learner under one policy, nats; null if not measured. */
    max_logprob_gap: gaps.length === 0 ? null : Math.max(...gaps),
  };
}
