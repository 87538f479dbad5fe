import { describe, expect, test } from "vitest";
import { chatRequest, parseBody } from "../../src/serving/requests.js";

const body = { model: "m", messages: [{ role: "user", content: "a" }] };

describe("a chat request", () => {
  test.each([
    { tools: [] },
    { tools: null },
    { tool_choice: null },
    { tool_choice: "none" },
    { functions: null },
    { functions: [] },
    { function_call: null },
  ])("%j asks for nothing, and is served", (fields) => {
    expect(parseBody(chatRequest, { ...body, ...fields }).messages).toEqual(body.messages);
  });

  test.each([
    [{ tools: [{}] }, "tools: is not served"],
    [{ tool_choice: "auto" }, "tool_choice: is not served"],
    [{ functions: [{ name: "f" }] }, "functions: is not served"],
    [{ function_call: { name: "f" } }, "function_call: is not served"],
  ])("%j is refused by name", (fields, message) => {
    expect(() => parseBody(chatRequest, { ...body, ...fields })).toThrow(message);
  });

  test("a message may have a name, which reaches the chat template", () => {
    const messages = [{ role: "user", content: "a", name: "Ann" }];
    expect(parseBody(chatRequest, { ...body, messages }).messages).toEqual(messages);
    expect(() => parseBody(chatRequest, { ...body, messages: [{ ...messages[0], name: 1 }] })).toThrow("name");
  });

  test("developer is another name of system", () => {
    const messages = [{ role: "developer", content: "Be brief." }, ...body.messages];
    expect(parseBody(chatRequest, { ...body, messages }).messages[0]).toEqual({ role: "system", content: "Be brief." });
  });
});
