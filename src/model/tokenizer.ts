/** Text ↔ token ids of a model folder, as `transformers` does it; knows no model and no task. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";
import { readJson, readText } from "../files.js";
import type { ModelConfig } from "./config.js";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  /** For templates that use it. */
  readonly name?: string;
}

export type Tokenizer = ReturnType<typeof loadTokenizer>;

type ChatOptions = { readonly addGenerationPrompt?: boolean };
type Json = Record<string, unknown>;

/** The library makes a list as long as the largest id of a file. */
const MAX_ID = 1 << 21;

/** @param shape when given, ids must fit it @throws UserError for malformed files, no stop id */
export function loadTokenizer(folder: string, shape?: ModelConfig) {
  const tokenizerFile = join(folder, "tokenizer.json");
  const tokenizerJson = jsonAt(tokenizerFile);
  const settings = jsonAt(join(folder, "tokenizer_config.json"));
  if (tokenizerJson === undefined || settings === undefined)
    throw new UserError(
      `${folder}: expected tokenizer.json and tokenizer_config.json, found ${tokenizerJson === undefined ? "no tokenizer.json" : "no tokenizer_config.json"}. Copy both from the model's repository.`,
    );
  const odd = idsIn(tokenizerJson).find((id) => !Number.isInteger(id) || Number(id) < 0 || Number(id) > MAX_ID);
  if (odd !== undefined)
    throw new UserError(
      `${tokenizerFile}: expected ids from 0 to ${MAX_ID}, found ${JSON.stringify(odd)}. Download the file again.`,
    );
  let hub: HubTokenizer;
  let vocabulary: Map<string, number>;
  try {
    hub = new HubTokenizer(tokenizerJson, settings);
    vocabulary = hub.get_vocab(true);
    // some settings are looked at here first
    const { ids } = hub.encode("Is 1 + 2 = 3?\n");
    if (ids.length > 0) hub.decode(ids);
  } catch (error) {
    throw new UserError(
      `${tokenizerFile}: expected a tokenizer of the "tokenizers" library, found one that cannot be used (${messageOf(error)}).`,
    );
  }
  let largestId = -1;
  for (const id of vocabulary.values()) largestId = Math.max(largestId, id);
  if (shape !== undefined && largestId >= shape.vocabSize)
    throw new UserError(
      `${tokenizerFile}: its largest id is ${largestId}, but the embedding (vocab_size in config.json) has ${shape.vocabSize} rows. Use the tokenizer that belongs to the model.`,
    );

  const idOf = (token: unknown): number | undefined =>
    token === undefined ? undefined : hub.token_to_id(contentOf(token) ?? "");
  const generation = jsonAt(join(folder, "generation_config.json"));
  const named = [...idList(generation?.["eos_token_id"]), ...idList(idOf(settings["eos_token"]))];
  const stopIds = [
    ...new Set(named.length > 0 ? named : idList(jsonAt(join(folder, "config.json"))?.["eos_token_id"])),
  ].sort((a, b) => a - b);
  if (stopIds.length === 0)
    throw new UserError(
      `${folder}: expected an end-of-text token (eos_token_id in generation_config.json, or eos_token in tokenizer_config.json), found none. Add one.`,
    );
  if (shape !== undefined && (stopIds.at(-1) as number) >= shape.vocabSize)
    throw new UserError(
      `${folder}: the stop id ${stopIds.at(-1)} does not fit the embedding of ${shape.vocabSize} rows. Mend eos_token_id in generation_config.json.`,
    );

  const templateText = chatTemplateText(folder, settings);
  let template: Template | undefined;
  const specialTokens = Object.fromEntries(
    ["bos_token", "eos_token", "unk_token", "pad_token"].flatMap((name) => {
      const content = contentOf(settings[name]);
      return content === undefined ? [] : [[name, content]];
    }),
  );

  /** Recognises special tokens in the text; `addSpecial` adds BOS and the like. */
  const encode = (text: string, { addSpecial = true }: { addSpecial?: boolean } = {}): Int32Array =>
    Int32Array.from(hub.encode(text, { add_special_tokens: addSpecial }).ids);
  /** The rendered conversation `chatPrompt` encodes; special tokens in messages count. */
  const renderChat = (messages: readonly ChatMessage[], { addGenerationPrompt = true }: ChatOptions = {}): string => {
    if (templateText === undefined)
      throw new UserError(
        `${folder}: expected a chat template (chat_template in tokenizer_config.json, or chat_template.jinja), found none. Use an instruction-tuned model, or a raw prompt.`,
      );
    try {
      template ??= new Template(templateText);
      // Templates ask whether tools and documents are none, which is what transformers passes.
      const none = { tools: null, documents: null };
      return template.render({ messages, ...none, add_generation_prompt: addGenerationPrompt, ...specialTokens });
    } catch (error) {
      throw new UserError(`${folder}: the chat template cannot render these messages: ${messageOf(error)}`);
    }
  };
  // transformers 5 cleans up spaces only where asked, and never for BPE, which has merges.
  const isBpe = "merges" in (tokenizerJson["model"] as Json);
  const cleanUp = settings["clean_up_tokenization_spaces"] === true && !isBpe;
  return {
    encode,
    /** Ids without a token give no text; broken UTF-8 gives U+FFFD. */
    decode(ids: ArrayLike<number>, { skipSpecial = false }: { skipSpecial?: boolean } = {}): string {
      const known = Array.from(ids).filter((id) => hub.id_to_token(id) !== undefined);
      return known.length === 0
        ? ""
        : hub.decode(known, { skip_special_tokens: skipSpecial, clean_up_tokenization_spaces: cleanUp });
    },
    renderChat,
    /** As in transformers. @throws UserError without a template */
    chatPrompt: (messages: readonly ChatMessage[], options?: ChatOptions): Int32Array =>
      encode(renderChat(messages, options), { addSpecial: false }),
    /** Ascending: generation_config.json's eos_token_id, the tokenizer's, else config.json's. */
    stopIds,
    /** One more than the largest id. */
    vocabSize: largestId + 1,
  };
}

/** All that decides between text and ids: the files as they were read, and the stop ids. */
export function tokenizerContent(folder: string): unknown {
  const settings = jsonAt(join(folder, "tokenizer_config.json")) ?? {};
  const template = chatTemplateText(folder, settings);
  return [jsonAt(join(folder, "tokenizer.json")), settings, template, loadTokenizer(folder).stopIds];
}

/** The token that the chat template writes after an assistant's text; undefined if it has none. */
export function templateTurnEnd(tokenizer: Tokenizer): number | undefined {
  const answer = "ANSWER";
  const turns: ChatMessage[] = [
    { role: "user", content: "?" },
    { role: "assistant", content: answer },
  ];
  const text = tokenizer.renderChat(turns, { addGenerationPrompt: false });
  const after = tokenizer.encode(text.slice(text.lastIndexOf(answer) + answer.length), { addSpecial: false });
  const isSpecial = (id: number): boolean => tokenizer.decode([id], { skipSpecial: true }) === "";
  return after.find((id) => tokenizer.stopIds.includes(id) || isSpecial(id));
}

/** One line where the template ends an answer with a token that stops none; else undefined. */
export function turnEndNote(tokenizer: Tokenizer): string | undefined {
  let end: number | undefined;
  try {
    end = templateTurnEnd(tokenizer);
  } catch {
    return undefined; // without a template, which whoever needs one will say
  }
  if (end === undefined || tokenizer.stopIds.includes(end)) return undefined;
  return (
    `note: the chat template ends answers with ${tokenizer.decode([end])} (${end}), which is no stop token: ` +
    `answers will not end there. Add ${end} to eos_token_id in the model's generation_config.json.`
  );
}

/** Decodes a completion without the stop token that ended it. */
export function completionText(
  tokenizer: Pick<Tokenizer, "decode">,
  { ids, finishReason }: { readonly ids: Int32Array; readonly finishReason: "stop" | "length" },
): string {
  return tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids);
}

/** Ids as tokenizer.json has them; a list of texts has none of its own. */
function idsIn({ model, added_tokens: added }: Json): unknown[] {
  const vocabulary = (model as { vocab?: unknown } | null | undefined)?.vocab;
  const ids = Array.isArray(vocabulary) ? [] : Object.values(Object(vocabulary) as object);
  return [...ids, ...(Array.isArray(added) ? added : []).map((token) => (token as { id?: unknown } | null)?.id ?? -1)];
}

function chatTemplateText(folder: string, settings: Json): string | undefined {
  const file = join(folder, "chat_template.jinja");
  if (existsSync(file)) return readText(file);
  const inside = settings["chat_template"];
  if (typeof inside === "string") return inside;
  // Some tokenizers carry a list of named templates.
  if (!Array.isArray(inside)) return undefined;
  const named = (inside as { name?: unknown; template?: unknown }[]).find((entry) => entry.name === "default");
  return typeof named?.template === "string" ? named.template : undefined;
}

const jsonAt = (file: string): Json | undefined =>
  existsSync(file) ? readJson(file, z.looseObject({}), "Download the file again.") : undefined;

/** tokenizer_config.json writes a token as a string or as {content: string, …}. */
function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  const content = (token as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

function idList(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isInteger(id) && id >= 0);
}
