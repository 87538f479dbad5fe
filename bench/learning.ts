/**
 * (c) Validation accuracy against time, and the time to +15 points: `launch` against TRL's
 * GRPOTrainer, starter model.
 */
import { generateAll } from "../src/engine/local.js";
import { OrtEngine } from "../src/engine/engine.js";
import { readModelConfig } from "../src/model/config.js";
import { loadPacked } from "../src/model/model-weights.js";
import { loadTokenizer } from "../src/model/tokenizer.js";
import { taskSeed } from "../src/protocol/seeds.js";
import { outcomeOf } from "../src/tasks/extract.js";
import { starterProblem } from "../src/tasks/starter.js";
import type { BenchContext, BenchResult, Curves } from "./bench.js";
import { interleave } from "./measure.js";
import { starterModel } from "./models.js";
import { launchRun, trlRun, withProblems, type RunOptions, type RunSeen } from "./runs.js";

const TRL = "TRL GRPOTrainer";
const GAIN = 0.15;
const MAX_NEW_TOKENS = 64;
/** Problems held out, and completions sampled of each. */
const PROBLEMS = 512;
const SAMPLES = 4;

/** A curve's points: seconds of training, sampled and greedy accuracy. */
interface Point {
  readonly seconds: number;
  readonly sampled: number;
  readonly greedy: number;
}

export async function benchLearning({ python, quick, progress }: BenchContext): Promise<BenchResult> {
  const completions = quick ? 64 : 512;
  const [steps, saveSteps, repeats] = quick ? [4, 2, 1] : [30, 5, 2];
  const start = { seconds: 0, ...(await accuracyOf(starterModel)) };
  const curves: Record<"ours" | typeof TRL, Point[][]> = { ours: [], [TRL]: [] };
  /** Runs that ended before the target: their figure is only a lower bound. */
  const unreached: string[] = [];
  let measured: Awaited<ReturnType<typeof interleave>> | undefined;
  await withProblems(async (folder) => {
    const timed =
      (side: keyof typeof curves, train: (options: RunOptions) => Promise<RunSeen>) => async (repeat: number) => {
        if (repeat < 0) return 0; // a run is long; there is nothing to warm up
        const options = { model: starterModel, completions, steps, saveSteps, folder, seed: repeat };
        const seen = await train({ ...options, reward: "correctness" });
        const points: Point[] = [start];
        for (let step = saveSteps; step <= steps; step += saveSteps) {
          const seconds = seen.seconds.slice(0, step).reduce((a, b) => a + b, 0);
          points.push({ seconds, ...(await accuracyOf(seen.checkpoint(step))) });
        }
        curves[side].push(points);
        progress(`${side}, seed ${repeat}: ${percentages(points.map(({ sampled }) => sampled))}`);
        const time = timeTo(start.sampled + GAIN, points);
        if (time === null) unreached.push(`${side}, seed ${repeat}`);
        return time ?? points.at(-1)!.seconds;
      };
    const peers = python === null ? {} : { [TRL]: timed(TRL, (options) => trlRun(python, options)) };
    measured = await interleave(timed("ours", launchRun), peers, repeats);
  });
  const name = `sampled accuracy +${100 * GAIN} points`;
  return {
    title: "Time to validation accuracy, starter model",
    unit: "s",
    better: "lower",
    peerNames: [TRL],
    cases: [{ name, settings: { steps, saveSteps, completions, startSampled: start.sampled }, ...measured! }],
    notes: [
      `Both: ${completions} completions a step in groups of 8, learning rate 5e-5 after 5 warm-up steps, ${repeats} seeds, two threads in all; seconds of training, start-up, saving and evaluation excluded (TRL's saved models are judged by our engine, as ours are).`,
      `Accuracy: ${PROBLEMS} held-out problems, ${SAMPLES} sampled completions each at temperature 1, and one greedy. The time is where the line between two checkpoints crosses the target.`,
      `From ${percentages([start.sampled])} sampled, ${percentages([start.greedy])} greedy. At the end, sampled: ${Object.entries(
        curves,
      )
        .filter(([, runs]) => runs.length > 0)
        .map(([side, runs]) => `${side} ${percentages(runs.map((points) => points.at(-1)!.sampled))}`)
        .join("; ")}.`,
      ...(unreached.length > 0
        ? [
            `NOT REACHED in ${steps} steps, so the figure is the length of the run, a lower bound: ${unreached.join("; ")}.`,
          ]
        : []),
    ],
    curves: (["sampled", "greedy"] as const).map((mode): Curves => ({
      title: `${mode} accuracy, ${PROBLEMS} held-out problems`,
      xName: "seconds of training",
      yName: "%",
      lines: Object.entries(curves).flatMap(([side, runs]) =>
        runs.map((points) => ({
          name: side, // one colour for all seeds
          points: points.map((point) => [point.seconds, 100 * point[mode]] as const),
        })),
      ),
    })),
  };
}

const percentages = (shares: readonly number[]): string =>
  `${shares.map((share) => (100 * share).toFixed(1)).join(", ")} %`;

/**
 * Seconds after which sampled accuracy reached `target`, along straight lines between the points;
 * null = never.
 */
function timeTo(target: number, points: readonly Point[]): number | null {
  const after = points.findIndex(({ sampled }) => sampled >= target);
  if (after < 1) return null;
  const [a, b] = [points[after - 1]!, points[after]!];
  return a.seconds + ((b.seconds - a.seconds) * (target - a.sampled)) / (b.sampled - a.sampled);
}

/** Our engine judges the checkpoints of both sides. */
async function accuracyOf(folder: string): Promise<Omit<Point, "seconds">> {
  const config = readModelConfig(folder);
  const tokenizer = loadTokenizer(starterModel, config);
  const engine = await OrtEngine.create(config, { threads: 2, maxRows: 256, segmentLength: 8 });
  await engine.load(loadPacked(folder, config), 0);
  const problems = Array.from({ length: PROBLEMS }, (_, i) => starterProblem("validation", i));
  const accuracy = async (temperature: 0 | 1): Promise<number> => {
    const groups = await generateAll(
      engine,
      problems.map(({ id, question }) => ({
        requestId: id,
        promptIds: tokenizer.chatPrompt([{ role: "user", content: question }]),
        groupSize: temperature === 0 ? 1 : SAMPLES,
        seed: taskSeed(0, id),
        sampling: { temperature, maxNewTokens: MAX_NEW_TOKENS, stopIds: tokenizer.stopIds },
      })),
    );
    const outcomes = groups.flatMap(({ completions }, p) =>
      completions.map(({ ids, finishReason }) => {
        const text = tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids);
        return outcomeOf(text, finishReason, problems[p]!.answer);
      }),
    );
    return outcomes.filter((outcome) => outcome === "correct").length / outcomes.length;
  };
  const result = { sampled: await accuracy(1), greedy: await accuracy(0) };
  await engine.dispose();
  return result;
}
