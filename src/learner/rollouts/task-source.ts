/**
 * Which task stands at which place, as a function of the configuration alone. Batch k holds
 * positions kB … kB+B−1 of the prompt order, B = generation_batch_size / num_generations.
 * Substitutes have an order of their own, so that they never move a later batch's prompts.
 */
import type { RunConfig } from "../../config/schema.js";
import { UserError } from "../../errors.js";
import { readModelConfig, type ModelConfig } from "../../model/config.js";
import { type ChatMessage, type Tokenizer, loadTokenizer } from "../../model/tokenizer.js";
import type { Sampling, Task } from "../../protocol/messages.js";
import { taskSeed } from "../../protocol/seeds.js";
import { type Dataset, type Problem, PromptOrder, loadDataset } from "../../tasks/dataset.js";
import { hash32 } from "../../math/random.js";
import { rewardWeights, totalReward } from "../../tasks/rewards.js";
import type { GroupRules } from "./group-rules.js";
import type { EvaluationRequest } from "./rollout-source.js";
import type { TaskBookOptions } from "./task-book.js";

/** The two data sets of a run. */
type ProblemSets = Readonly<Record<"train" | "validation", Dataset>>;

export class TaskSource {
  readonly #run: RunConfig;
  readonly #tokenizer: Tokenizer;
  readonly #problems: ProblemSets;
  readonly #order: PromptOrder;
  readonly #reserve: PromptOrder;
  /** Longest prompt + completion of the model, in tokens. */
  readonly #maxPositions: number;
  readonly groupsPerBatch: number;
  readonly rules: GroupRules;

  constructor(
    run: RunConfig,
    tokenizer: Tokenizer,
    problems: ProblemSets,
    { maxPositions, vocabSize }: Pick<ModelConfig, "maxPositions" | "vocabSize">,
  ) {
    this.#run = run;
    this.#tokenizer = tokenizer;
    this.#problems = problems;
    this.#order = new PromptOrder(problems.train.size, run.seed);
    this.#reserve = new PromptOrder(problems.train.size, hash32(run.seed, 1));
    this.#maxPositions = maxPositions;
    this.rules = { vocabSize, rewardNames: rewardWeights(run).map(({ name }) => name) };
    this.groupsPerBatch = run.generation_batch_size / run.num_generations;
  }

  /** @throws UserError when data or tokenizer is missing or malformed, or a prompt is too long */
  static open(run: RunConfig): TaskSource {
    const model = readModelConfig(run.model.path);
    const tokenizer = loadTokenizer(run.model.path, model);
    const train = loadDataset(run.data.train, "train");
    const validation = loadDataset(run.data.validation, "validation");
    const problems = { train, validation };
    const source = new TaskSource(run, tokenizer, problems, model);
    // all are read at the start: a prompt that is too long must not end a run that is half done
    for (const key of (["train", "validation"] as const).filter((key) => run.data[key] !== "starter"))
      for (let i = 0; i < problems[key].size; i++) source.#promptIds(problems[key].problem(i));
    return source;
  }

  /**
   * The task at `slot` of a training batch; replacement r > 0 is its r-th substitute.
   * @throws UserError for a prompt longer than data.max_prompt_length or the context allows
   */
  taskAt(batch: number, slot: number, replacement: number): Task {
    const run = this.#run;
    const position = batch * this.groupsPerBatch + slot;
    const index =
      replacement === 0
        ? this.#order.index(position)
        : this.#reserve.index(position * run.filter_groups_max_rounds + replacement - 1);
    const suffix = replacement === 0 ? "" : `-r${replacement}`;
    const taskId = `b${pad(batch)}-${pad(slot, 4)}${suffix}`;
    const minIteration = Math.max(0, batch - run.max_staleness);
    const task = { taskId, kind: "train", batch, groupSize: run.num_generations, minIteration } as const;
    return this.#complete(task, this.#problems.train.problem(index), run.temperature);
  }

  /** The first held-out problems, one completion each, for the policy of one iteration. */
  evalTasks({ iteration, n, mode, purpose }: EvaluationRequest): Task[] {
    const temperature = mode === "greedy" ? 0 : this.#run.temperature;
    return Array.from({ length: Math.min(n, this.#problems.validation.size) }, (_, i) => {
      const taskId = `${purpose}${pad(iteration)}-${mode}-${pad(i, 5)}`;
      const task = { taskId, kind: "eval", batch: iteration, groupSize: 1, minIteration: iteration } as const;
      // The noise of a question is the same in every evaluation: equal weights answer equally.
      const noise = `${purpose}-${mode}-${pad(i, 5)}`;
      return this.#complete(task, this.#problems.validation.problem(i), temperature, noise);
    });
  }

  #complete(
    task: Pick<Task, "taskId" | "kind" | "batch" | "groupSize" | "minIteration">,
    problem: Problem,
    temperature: number,
    noise = task.taskId,
  ): Task {
    const sampling: Sampling = {
      temperature,
      maxNewTokens: this.#run.max_completion_length,
      stopIds: this.#tokenizer.stopIds,
    };
    const promptIds = this.#promptIds(problem);
    const { question, answer } = problem;
    return { ...task, promptIds, seed: taskSeed(this.#run.seed, noise), sampling, problem: { question, answer } };
  }

  #promptIds({ question }: Problem): Int32Array {
    const { data, max_completion_length: maxNew } = this.#run;
    const messages: ChatMessage[] = [{ role: "user", content: question + data.prompt_suffix }];
    if (data.system_prompt !== null) messages.unshift({ role: "system", content: data.system_prompt });
    const ids = this.#tokenizer.chatPrompt(messages);
    const start = JSON.stringify(question.slice(0, 60));
    if (ids.length > data.max_prompt_length)
      throw new UserError(
        `data.max_prompt_length: expected prompts of at most ${data.max_prompt_length} tokens, found ${ids.length} (${start}…). ` +
          `Raise data.max_prompt_length or remove the problem: prompts are never cut.`,
      );
    if (ids.length + maxNew > this.#maxPositions)
      throw new UserError(
        `The prompt ${start}… has ${ids.length} tokens; with max_completion_length ${maxNew} that is more than the ` +
          `model's context of ${this.#maxPositions}. Lower max_completion_length or remove the problem.`,
      );
    return ids;
  }
}

/** The part of the task book's options that a configuration decides. */
export function bookOptions(run: RunConfig, source: TaskSource): TaskBookOptions & { rules: GroupRules } {
  return {
    rules: source.rules,
    taskAt: (batch, slot, replacement) => source.taskAt(batch, slot, replacement),
    groupsPerBatch: source.groupsPerBatch,
    maxBatches: run.max_steps,
    maxStaleness: run.max_staleness,
    maxReplacements: run.filter_groups ? run.filter_groups_max_rounds : 0,
    rewardsEqual: rewardsEqual(run),
    leaseMs: run.actors.lease_seconds * 1_000,
  };
}

/** Whether all group-relative advantages would be 0: no completion earned more than another. */
function rewardsEqual(run: RunConfig): TaskBookOptions["rewardsEqual"] {
  const functions = rewardWeights(run);
  return (group) => {
    const totals = group.completions.map((c) => totalReward(c.rewards, functions)).filter((total) => total !== null);
    return totals.every((total) => total === totals[0]);
  };
}

function pad(n: number, digits = 6): string {
  return String(n).padStart(digits, "0");
}
