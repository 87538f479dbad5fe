/** What both sides of a comparison understand (ours.ts, peers/torch_side.py). Paths are of Hugging Face folders. */

export interface RolloutRequest {
  readonly op: "rollout";
  readonly model: string;
  /** Token ids of each prompt, answered `groupSize` times at temperature 1. */
  readonly prompts: readonly (readonly number[])[];
  readonly groupSize: number;
  /** Completions in flight. */
  readonly rows: number;
  readonly maxNewTokens: number;
  /** Empty: every completion has exactly `maxNewTokens` tokens. */
  readonly stopIds: readonly number[];
  readonly padId: number;
  readonly seed: number;
}

export interface RolloutReply {
  readonly seconds: number;
  /** Tokens of all completions, each counted up to and including its stop token. */
  readonly tokens: number;
  /** Prompt by prompt, with the logprobs of their tokens; from our side only. */
  readonly completions?: readonly (readonly number[])[];
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
