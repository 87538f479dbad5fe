/** `sft`: supervised fine-tuning on worked answers. */
import type { Command } from "commander";
import type { SftFlags } from "../learner/run-sft.js";
import { above, acceptOption, atLeast, backendOption, number } from "./options.js";

export function addSft(program: Command): void {
  program
    .command("sft")
    .description("supervised fine-tuning on worked answers, before reinforcement learning")
    .requiredOption("--model <dir>", "Hugging Face folder to start from, or the hub id of a downloaded model")
    .requiredOption("--data <source>", '"starter", or a JSONL file with question/answer (GSM8K\'s format)')
    .requiredOption("--out <dir>", "folder of the trained model; checkpoints go to its checkpoints/")
    .option("--from-scratch", "random weights; of --model only config.json and tokenizer are read", false)
    .option("--lora", "train a PEFT adapter on the frozen model, as launch does with --lora.enabled=true")
    .option("--lora-r <n>", "adapter rank", atLeast(1), 16)
    .option("--lora-alpha <x>", "adapter scale is alpha / r", above(0), 32)
    .option("--resume", "continue from the last checkpoint in --out", false)
    .addOption(acceptOption())
    .option("--max-steps <n>", "optimizer steps", atLeast(1), 1000)
    .option("--batch-size <n>", "examples per step", atLeast(1), 64)
    .option("--learning-rate <rate>", "peak rate of the cosine schedule", above(0), 1e-3)
    .option("--warmup-steps <n>", "steps of linear warm-up", atLeast(0), 50)
    .option("--weight-decay <x>", "decoupled; none on norms and biases", number(0), 0.01)
    .option("--max-grad-norm <x>", "clipping by global norm", above(0), 1)
    .option("--tokens-per-microbatch <n>", "gradient accumulation by token budget", atLeast(1), 16384)
    .option("--save-steps <n>", "checkpoint every N steps; 0 = only at the end", atLeast(0), 500)
    .option("--seed <n>", "seed of the order of examples and of initial weights", atLeast(0), 42)
    .addOption(backendOption())
    .action(async (options: SftFlags) => {
      const { runSft } = await import("../learner/run-sft.js");
      const { showProgress } = await import("../terminal/progress-bar.js");
      let smoothed: number | undefined;
      let text = "…";
      let skipped = 0;
      const progress = showProgress({
        name: "step",
        total: options.maxSteps,
        text: (done) => `${done}/${options.maxSteps}  ${text}`,
        everyMs: 5000,
      });
      await runSft(options, ({ step, loss, gradNorm, learningRate, ...so }) => {
        if (Number.isFinite(loss)) smoothed = smoothed === undefined ? loss : 0.98 * smoothed + 0.02 * loss;
        skipped = so.skipped;
        text = `loss ${smoothed?.toFixed(4)}  grad norm ${gradNorm.toFixed(2)}  lr ${learningRate.toExponential(2)}`;
        if (skipped > 0) text += `  skipped ${skipped}`;
        progress.update(step);
      }).finally(progress.stop);
      if (skipped > 0) console.log(`${skipped} updates were skipped: loss or gradient was not finite`);
      const kind = options.lora ? "adapter (adapter_config.json, adapter_model" : "model (config.json, model";
      console.log(`${options.out}: trained ${kind}.safetensors, tokenizer)`);
    });
}
