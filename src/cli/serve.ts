/** `serve`: an OpenAI-compatible HTTP server for a model folder or adapter. */
import type { Command } from "commander";
import type { ServeOptions } from "../serving/server.js";
import { type EngineFlags, MODEL, addEngineOptions, atLeast, modelOf, withEngines } from "./options.js";

export function addServe(program: Command): void {
  const command = program
    .command("serve")
    .description("answer HTTP requests as OpenAI's API does: completions, chat completions, models")
    .argument("<model>", MODEL)
    .option("--host <address>", "to listen on; another than loopback needs an API key", "127.0.0.1")
    .option("--port <n>", "0 = any free one", atLeast(0, 65535), 8000)
    .option(
      "--api-key <key>",
      "clients must send it as a bearer token (default: FINELLAMA_API_KEY, which ps does not show)",
    )
    .option("--model-name <name>", "what requests call the model (default: <model> as given)")
    .option("--cors <origin>", "let web pages of this origin ask, http://localhost:3000 say (default: of none)")
    .option("--max-queue <n>", "completions that may wait; beyond, requests get status 429", atLeast(0), 256);
  addEngineOptions(command, 64).action(async (model: string, flags: Omit<ServeOptions, "engines"> & EngineFlags) => {
    await withEngines(flags, async (options) => {
      const { runServer } = await import("../serving/server.js");
      await runServer(await modelOf(model), { modelName: model, ...options });
    });
  });
}
