/** What all sides of a comparison understand (ours.ts, peers/torch_side.py; peers/llama_side.py the rollout alone). */

export interface RolloutRequest {
  readonly op: "rollout";
  /** Hugging Face folder; llama.cpp: GGUF file. */
  readonly model: string;
  /** Token ids of each prompt, answered `groupSize` times. */
  readonly prompts: readonly (readonly number[])[];
  readonly groupSize: number;
  /** Completions in flight. */
  readonly rows: number;
  readonly maxNewTokens: number;
  /** 1, or 0 for greedy. */
  readonly temperature: 0 | 1;
  /** Empty: every completion has exactly `maxNewTokens` tokens. */
  readonly stopIds: readonly number[];
  readonly padId: number;
  readonly seed: number;
}

export interface RolloutReply {
  readonly seconds: number;
  /** Tokens of all completions, each counted up to and including its stop token. */
  readonly tokens: number;
  /** Prompt by prompt. */
  readonly completions: readonly (readonly number[])[];
  /** Of their tokens; from our side only. */
  readonly logprobs?: readonly (readonly number[])[];
}

export interface LearnerGroup {
  readonly promptIds: readonly number[];
  readonly completions: readonly (readonly number[])[];
  /** As they were sampled with, of each token (torch's step looks at no behaviour policy). */
  readonly logprobs: readonly (readonly number[])[];
  readonly rewards: readonly number[];
}

/** One optimizer step of GRPO (dapo denominator, no KL) with AdamW. */
export interface LearnerRequest {
  readonly op: "learner";
  readonly model: string;
  readonly groups: readonly LearnerGroup[];
  readonly entropyCoef: number;
  readonly padId: number;
}

export interface LearnerReply {
  readonly seconds: number;
  /** Before clipping: both sides must find the same at the first step. */
  readonly gradNorm: number;
}

export type Request = RolloutRequest | LearnerRequest;
