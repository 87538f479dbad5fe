/**
 * The embedded task: generated word problems in GSM8K's format, and a corpus of solutions of mixed
 * quality.
 *
 * Stateless: problem i is a function of (split, i). Training, validation and test share no problem,
 * not even one that differs only in its names and things: train is told from the others by a hash
 * of the question with those masked, and test has what validation does not ask. Knows no tokenizer
 * and no model.
 */
import { Draw, hash32, hashText } from "../math/random.js";
import { type Operand, type Operation, type Step, templates } from "./templates.js";

export interface Problem {
  readonly id: string;
  readonly question: string;
  /** A worked solution; its last line is `#### n`. */
  readonly answer: string;
}

export type Split = "train" | "validation" | "test";

/**
 * How a corpus solution was written; its first token tells:
 * careful: `First total: 5*12=60\nThen left: 60-7=53\n#### 53`, every step right;
 * terse: `#### 53`, right but without any step to lean on;
 * careless: `Quick: 5*12=62\n62-7=55\n#### 55` (or `Guess: …`), one slip, carried to the end.
 */
export type Style = "careful" | "terse" | "careless";

/** Shares of the styles; the rest is careless. */
export interface CorpusMix {
  readonly careful: number;
  readonly terse: number;
}

/**
 * Careless solutions are the most frequent kind but come with two openings, so that the single most
 * likely opening is the careful one: greedy decoding starts out well, sampling does not.
 */
const defaultCorpusMix: CorpusMix = { careful: 0.36, terse: 0.22 };

const names = ["Anna", "Ben", "Dan", "Emma", "Jack", "Kate", "Leo", "Sam"];
const things = ["apples", "balls", "cards", "coins", "cups", "eggs", "nuts", "pears", "stamps", "toys"];

/** One question in this many is held out, for validation or test. */
const heldOutShare = 16;
/** Number of validation problems: test avoids exactly these. */
export const VALIDATION_PROBLEMS = 2048;
const streams = { train: 1, validation: 2, corpus: 3, style: 4, test: 5 };

/** Problem number `index` (0 to 2^53) of a split; the same index always gives the same problem. */
export function starterProblem(split: Split, index: number): Problem {
  const { question, steps } = drawProblem(split, streams[split], index);
  return { id: `starter/${split}/${index}`, question, answer: carefulSolution(steps) };
}

/**
 * Sample number `index` of the supervised corpus: a training problem with a solution whose style is
 * drawn from `mix`.
 * @param seed another seed is another corpus
 */
export function starterCorpus(
  index: number,
  seed = 0,
  mix: CorpusMix = defaultCorpusMix,
): { question: string; answer: string; style: Style } {
  const { question, steps } = drawProblem("train", streams.corpus, index, seed);
  const d = new Draw(streams.style, index, seed);
  const u = d.unit();
  const style: Style = u < mix.careful ? "careful" : u < mix.careful + mix.terse ? "terse" : "careless";
  const terse = `#### ${finalResult(steps)}`;
  const answer = style === "terse" ? terse : style === "careful" ? carefulSolution(steps) : carelessSolution(steps, d);
  return { question, answer, style };
}

// ---- problems

function drawProblem(split: Split, stream: number, index: number, seed = 0) {
  for (let attempt = 0; ; attempt++) {
    const d = new Draw(stream, index, seed, attempt);
    const [text, ...steps] = d.pick(templates)(d);
    if (belongsTo(text, split)) return { question: dress(text, d), steps, text };
  }
}

/** By the question as the template wrote it: numbers filled in, names and things still masked. */
function belongsTo(text: string, split: Split): boolean {
  const heldOut = hash32(hashText(text)) % heldOutShare === 0;
  if (split === "train") return !heldOut;
  return heldOut && (split === "validation" || !validationTexts().has(text));
}

let asked: Set<string> | undefined;
/** The masked questions of validation. */
function validationTexts(): Set<string> {
  asked ??= new Set(
    Array.from({ length: VALIDATION_PROBLEMS }, (_, i) => drawProblem("validation", streams.validation, i).text),
  );
  return asked;
}

function dress(text: string, d: Draw): string {
  const one = d.int(0, names.length - 1);
  // Any of the other names.
  const other = (one + d.int(1, names.length - 1)) % names.length;
  return text.replaceAll("{N}", names[one]!).replaceAll("{M}", names[other]!).replaceAll("{I}", d.pick(things));
}

// ---- solutions

function compute(left: number, operation: Operation, right: number): number {
  if (operation === "+") return left + right;
  if (operation === "-") return left - right;
  return operation === "*" ? left * right : Math.floor(left / right);
}

const workedStep = (label: string, left: number, operation: Operation, right: number) => ({
  label,
  left,
  operation,
  right,
  result: compute(left, operation, right),
});
type WorkedStep = ReturnType<typeof workedStep>;

/** Works the steps out; `slip` may change a step once its operands are known. */
function work(
  steps: readonly Step[],
  slip: (step: WorkedStep, position: number) => WorkedStep = (step) => step,
): WorkedStep[] {
  const worked: WorkedStep[] = [];
  const valueOf = (operand: Operand): number => (typeof operand === "number" ? operand : worked[operand.step]!.result);
  for (const [position, [label, left, operation, right]] of steps.entries())
    worked.push(slip(workedStep(label, valueOf(left), operation, valueOf(right)), position));
  return worked;
}

const finalResult = (steps: readonly Step[]): number => work(steps).at(-1)!.result;

const equation = ({ left, operation, right, result }: WorkedStep): string => `${left}${operation}${right}=${result}`;

function carefulSolution(steps: readonly Step[]): string {
  const worked = work(steps);
  const lines = worked.map((step, i) => `${i === 0 ? "First" : "Then"} ${step.label}: ${equation(step)}`);
  return `${lines.join("\n")}\n#### ${worked.at(-1)!.result}`;
}

const slips: readonly ((step: WorkedStep, d: Draw) => WorkedStep)[] = [
  // Miscounted by one, or by ten.
  (step, d) => ({ ...step, result: step.result + d.pick([-1, 1]) }),
  (step, d) => ({ ...step, result: step.result + d.pick([-10, 10]) }),
  // A number misread.
  (step, d) => recomputed({ ...step, right: step.right + d.pick([-2, -1, 1, 2]) }),
  // The other operation of the pair.
  (step) => recomputed({ ...step, operation: ({ "+": "-", "-": "+", "*": "+", "/": "-" } as const)[step.operation] }),
];

const recomputed = ({ label, left, operation, right }: WorkedStep): WorkedStep =>
  workedStep(label, left, operation, right);

/** One step slips; redrawn until every number is at least 1 and the end is wrong. */
function carelessSolution(steps: readonly Step[], d: Draw): string {
  const right = finalResult(steps);
  for (;;) {
    const where = d.int(0, steps.length - 1);
    const slip = d.pick(slips);
    const worked = work(steps, (step, position) => (position === where ? slip(step, d) : step));
    const { result } = worked.at(-1)!;
    const plausible = worked.every((step) => step.left > 0 && step.right > 0 && step.result > 0 && step.result <= 200);
    if (plausible && result !== right)
      return `${d.pick(["Quick", "Guess"])}: ${worked.map(equation).join("\n")}\n#### ${result}`;
  }
}
