/** Sections on the answers: what changed in them, how they were judged, and some to read. */
import { answerClasses } from "../../eval/error-classes.js";
import { type Mode, modes } from "../../eval/folder/names.js";
import { stackedChart } from "./charts/rows.js";
import { sum } from "../../math/statistics.js";
import { percent, scientific, whole } from "../../terminal/format.js";
import { type Block, type Section, label, table } from "./document.js";
import type { Gathered } from "./gather.js";
import type { Flow, Result } from "./results.js";
import type { Account } from "./accounts.js";
import { algorithmsOf } from "./bands.js";

export function flowSection(flows: readonly Flow[], results: readonly Result[]): Section {
  const blocks: Block[] = [];
  const several = new Set(flows.map(({ prompt }) => prompt)).size > 1;
  for (const mode of modes) {
    const ofMode = flows.filter((flow) => flow.mode === mode);
    if (ofMode.length === 0) continue;
    const rows = ofMode.map(({ run, prompt }) => (several ? `${run}, ${prompt}` : run));
    const parts = (["right_right", "wrong_right", "right_wrong", "wrong_wrong"] as const).map((key) => ({
      name: key.replace("_", " → "),
      counts: ofMode.map((flow) => flow[key]),
    }));
    blocks.push(
      {
        kind: "chart",
        name: `flow-${mode}`,
        wide: true,
        svg: stackedChart(rows, parts, `completions, ${mode}`),
        alt: `What became of each answer (${mode}). ${rows.map((row, i) => `${row}: ${parts.map(({ name, counts }) => `${counts[i]} ${name}`).join(", ")}`).join(". ")}.`,
        caption: `The same questions before and after training, ${mode}: how many answers turned right and how many turned wrong.`,
      },
      table(`Counts, ${mode}. The net gain is wrong → right less right → wrong.`, ofMode, [
        ["run", (_, i) => rows[i]!],
        ...parts.map(({ name, counts }) => [name, (_: Flow, i: number) => whole(counts[i]!)] as const),
        ["net", ({ wrong_right, right_wrong, n }) => `${net(wrong_right - right_wrong)} of ${whole(n)}`],
      ]),
    );
  }
  const classes = Object.keys(answerClasses) as (keyof typeof answerClasses)[];
  const seen = classes.filter((name) => results.some((one) => one.classes[name] > 0));
  if (results.length > 0)
    blocks.push(
      table(
        `Why answers are wrong, as analyze sorts them; shares of all completions. ${seen.map((name) => `${name}: ${answerClasses[name]}`).join("; ")}.`,
        results,
        [
          ["", (one) => label(one.who)],
          ["mode", (one) => one.mode],
          ...(several ? [["prompt", (one: Result) => one.prompt] as const] : []),
          ...seen.map(
            (name) => [name, ({ classes }: Result) => percent(classes[name] / sum(Object.values(classes)))] as const,
          ),
        ],
      ),
    );
  return { id: "flow", title: "What changed in the answers", blocks };
}

const net = (gain: number): string => `${gain < 0 ? "−" : "+"}${Math.abs(gain)}`;

export function auditSection(accounts: readonly Account[], results: readonly Result[]): Section {
  const whos = results.filter((one) => one.prompt === results[0]!.prompt);
  const blocks = [
    table("Outcomes of all training completions.", accounts, [
      ["run", (one) => one.run],
      ["completions", (one) => whole(one.completions)],
      ["correct", (one) => percent(one.outcomes.correct)],
      ["wrong", (one) => percent(one.outcomes.wrong)],
      ["unparsed", (one) => percent(one.outcomes.unparsed)],
      ["cut off", (one) => percent(one.outcomes.truncated)],
    ]),
    table(
      "What failed or was refused in training. Staleness in iterations; gap: largest difference in nats between actor and learner under the same weights. Refused and leased again: since the learner last started.",
      accounts,
      [
        ["run", (one) => one.run],
        ["reward errors", (one) => whole(one.reward_errors)],
        ["groups filtered", (one) => whole(one.filtered_groups)],
        ["groups refused", (one) => whole(one.refused_groups)],
        ["leased again", (one) => whole(one.released_leases)],
        ["skipped updates", (one) => whole(one.skipped_updates)],
        ["max staleness", (one) => whole(one.max_staleness)],
        ["max gap", ({ max_logprob_gap: gap }) => (gap === null ? "not measured" : scientific(gap))],
      ],
    ),
  ];
  if (whos.length > 0)
    blocks.push(
      table("Outcomes of evaluated completions, counts (summed over seeds).", whos, [
        ["", (one) => label(one.who)],
        ["mode", (one) => one.mode],
        ...Object.keys(whos[0]!.outcomes).map((name) => [name, (one: Result) => whole(one.outcomes[name]!)] as const),
      ]),
      table(
        "How often two extractors see the same answer (or both none) in evaluated completions. Low agreement with ours means that a score depends on who reads.",
        Object.keys(whos[0]!.agreement),
        [
          ["extractors", (pair) => pair],
          ...whos.map(
            ({ who, mode, agreement }) =>
              [`${label(who)}, ${mode}`, (pair: string) => percent(agreement[pair] ?? Number.NaN)] as const,
          ),
        ],
      ),
    );
  return { id: "audit", title: "Reward audit", blocks };
}

/** Before and after in the primary mode, where one prompt has both. */
export function samplesSection({ baseline, runs }: Gathered, mode: Mode): Section {
  const wanted = [
    ["wrong → right", false, true, 3],
    ["right → wrong", true, false, 2],
    ["right → right", true, true, 1],
  ] as const;
  const blocks = algorithmsOf(runs).flatMap((algorithm): Block[] => {
    const run = runs.find((one) => one.algorithm === algorithm && one.evals.length > 0);
    const after = run?.evals[0];
    const before = baseline.find(({ metrics }) => metrics.prompt === after?.metrics.prompt);
    if (run === undefined || after === undefined || before === undefined) return [];
    const answered = new Map(
      after.predictions.filter((one) => one.mode === mode && one.sample === 0).map((one) => [one.index, one]),
    );
    const pairs = before.predictions.flatMap((one) =>
      one.mode === mode && one.sample === 0 && answered.has(one.index)
        ? [[one, answered.get(one.index)!] as const]
        : [],
    );
    return wanted.flatMap(([name, was, is, count]) =>
      pairs
        .filter(([a, b]) => (a.outcome === "correct") === was && (b.outcome === "correct") === is)
        .slice(0, count)
        .map(([a, b]): Block => ({
          kind: "sample",
          title: `${name} (${label(algorithm)}, ${run.name}, ${a.id})`,
          question: a.question,
          gold: a.answer.split("####").at(-1)!.trim(),
          sides: [
            { title: "before", text: a.text, outcome: a.outcome },
            { title: "after", text: b.text, outcome: b.outcome },
          ],
        })),
    );
  });
  const note = `The first questions of each kind, ${mode}; of each algorithm its first seed. Not a random sample: the counts are above.`;
  return {
    id: "samples",
    title: "Completions before and after",
    blocks: blocks.length === 0 ? [] : [{ kind: "text", text: note }, ...blocks],
  };
}
