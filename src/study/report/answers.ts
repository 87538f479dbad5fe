/** Sections on the answers: what changed in them, how they were judged, and some to read. */
import { answerClasses } from "../../eval/error-classes.js";
import { type Mode, modes } from "../../eval/folder/names.js";
import { stackedChart } from "./charts/rows.js";
import { percent, scientific, whole } from "../../terminal/format.js";
import { type Block, type Section, label } from "./document.js";
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
    const parts = (
      [
        ["right → right", "right_right"],
        ["wrong → right", "wrong_right"],
        ["right → wrong", "right_wrong"],
        ["wrong → wrong", "wrong_wrong"],
      ] as const
    ).map(([name, key]) => ({ name, counts: ofMode.map((flow) => flow[key]) }));
    blocks.push(
      {
        kind: "chart",
        name: `flow-${mode}`,
        wide: true,
        svg: stackedChart(rows, parts, `completions, ${mode}`),
        alt: `What became of each answer (${mode}). ${rows.map((row, i) => `${row}: ${parts.map(({ name, counts }) => `${counts[i]} ${name}`).join(", ")}`).join(". ")}.`,
        caption: `The same questions before and after training, ${mode}: how many answers turned right and how many turned wrong.`,
      },
      {
        kind: "table",
        caption: `Counts, ${mode}. The net gain is wrong → right less right → wrong.`,
        head: ["run", ...parts.map(({ name }) => name), "net"],
        rows: rows.map((row, i) => {
          const net = ofMode[i]!.wrong_right - ofMode[i]!.right_wrong;
          return [
            row,
            ...parts.map(({ counts }) => whole(counts[i]!)),
            `${net < 0 ? "−" : "+"}${Math.abs(net)} of ${whole(ofMode[i]!.n)}`,
          ];
        }),
      },
    );
  }
  const classes = Object.keys(answerClasses) as (keyof typeof answerClasses)[];
  const seen = classes.filter((name) => results.some((one) => one.classes[name] > 0));
  if (results.length > 0)
    blocks.push({
      kind: "table",
      caption: `Why answers are wrong, as analyze sorts them; shares of all completions. ${seen.map((name) => `${name}: ${answerClasses[name]}`).join("; ")}.`,
      head: ["", "mode", ...(several ? ["prompt"] : []), ...seen],
      rows: results.map((one) => {
        const total = Object.values(one.classes).reduce((a, b) => a + b, 0);
        return [
          label(one.who),
          one.mode,
          ...(several ? [one.prompt] : []),
          ...seen.map((name) => percent(one.classes[name] / total)),
        ];
      }),
    });
  return { id: "flow", title: "What changed in the answers", blocks };
}

export function auditSection(accounts: readonly Account[], results: readonly Result[]): Section {
  const whos = results.filter((one) => one.prompt === results[0]!.prompt);
  const blocks: Block[] = [
    {
      kind: "table",
      caption: "Outcomes of all training completions.",
      head: ["run", "completions", "correct", "wrong", "unparsed", "cut off"],
      rows: accounts.map(({ run, completions, outcomes: { correct, wrong, unparsed, truncated } }) => [
        run,
        whole(completions),
        ...[correct, wrong, unparsed, truncated].map((share) => percent(share)),
      ]),
    },
    {
      kind: "table",
      caption:
        "What failed or was refused in training. Staleness in iterations; gap: largest difference in nats between actor and learner under the same weights. Refused and leased again: since the learner last started.",
      head: [
        "run",
        "reward errors",
        "groups filtered",
        "groups refused",
        "leased again",
        "skipped updates",
        "max staleness",
        "max gap",
      ],
      rows: accounts.map((one) => [
        one.run,
        ...[
          one.reward_errors,
          one.filtered_groups,
          one.refused_groups,
          one.released_leases,
          one.skipped_updates,
          one.max_staleness,
        ].map(whole),
        one.max_logprob_gap === null ? "not measured" : scientific(one.max_logprob_gap),
      ]),
    },
  ];
  if (whos.length > 0)
    blocks.push(
      {
        kind: "table",
        caption: "Outcomes of evaluated completions, counts (summed over seeds).",
        head: ["", "mode", ...Object.keys(whos[0]!.outcomes)],
        rows: whos.map((one) => [label(one.who), one.mode, ...Object.values(one.outcomes).map(whole)]),
      },
      {
        kind: "table",
        caption:
          "How often two extractors see the same answer (or both none) in evaluated completions. Low agreement with ours means that a score depends on who reads.",
        head: ["extractors", ...whos.map((one) => `${label(one.who)}, ${one.mode}`)],
        rows: Object.keys(whos[0]!.agreement).map((pair) => [
          pair,
          ...whos.map((one) => percent(one.agreement[pair] ?? Number.NaN)),
        ]),
      },
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
