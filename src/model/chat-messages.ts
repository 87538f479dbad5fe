/** A conversation in an HTTP request or a file of prompts: OpenAI's `messages`, texts only. */
import { z } from "zod";

const textParts = z
  .array(z.strictObject({ type: z.literal("text", "only text is served"), text: z.string() }))
  .transform((parts) => parts.map(({ text }) => text).join(""));

export const messageList = z
  .array(
    z.strictObject({
      // OpenAI's later name of "system"
      role: z
        .enum(["system", "developer", "user", "assistant"])
        .transform((role) => (role === "developer" ? "system" : role)),
      // templates that know speakers' names write them; the others leave them out
      name: z.string().exactOptional(),
      content: z.union([z.string(), textParts], "expected a string or a list of text parts"),
    }),
  )
  .nonempty();
