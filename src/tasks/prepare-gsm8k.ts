/**
 * Makes train.jsonl, dev.jsonl, test.jsonl and manifest.json of GSM8K's published files, which are
 * downloaded or lie in a folder. The bytes are the same every time, so a folder that already holds
 * others is refused.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { UserError, messageOf } from "../errors.js";
import { writeWhole } from "../files.js";
import type { DownloadProgress } from "../model/download.js";
import { networkReason } from "../model/hub-client.js";
import { DEV_PROBLEMS, DEV_SEED, gsm8kAddress, gsm8kFiles, gsm8kLines, parseGsm8k, splitDev } from "./gsm8k.js";

export interface PrepareGsm8kOptions {
  /** Folder with train.jsonl and test.jsonl; undefined = download them. */
  readonly from?: string;
  readonly out: string;
}

const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");

/**
 * @param address what is downloaded from when there is no `from`
 * @returns the number of problems of each file
 * @throws UserError when a source is missing, cannot be reached or is not the published one, or
 *   `out` holds other data
 */
export async function prepareGsm8k(
  { from, out }: PrepareGsm8kOptions,
  progress: DownloadProgress,
  address = gsm8kAddress,
): Promise<Record<string, number>> {
  const sources: string[] = [];
  for (const { name, sha256: expected } of gsm8kFiles) {
    const where = from === undefined ? `${address}/${name}` : join(from, name);
    const bytes = from === undefined ? await download(where, progress) : readLocal(where);
    if (sha256(bytes) !== expected)
      throw new UserError(
        `${where}: expected the published file with sha256 ${expected}, found ${sha256(bytes)} (${bytes.length} bytes). ` +
          (from === undefined ? "Run the command again, or give a good copy with --from." : "Download the file again."),
      );
    sources.push(new TextDecoder().decode(bytes));
  }
  const [published, test] = sources.map((text, i) => parseGsm8k(text, gsm8kFiles[i]!.name));
  const splits = { ...splitDev(published!), test: test! };

  const files = Object.entries(splits).map(([split, problems]) => ({
    name: `${split}.jsonl`,
    text: gsm8kLines(problems),
    problems: problems.length,
  }));
  const manifest = {
    dataset: "gsm8k",
    licence: "MIT",
    source: gsm8kAddress,
    source_sha256: Object.fromEntries(gsm8kFiles.map((file) => [file.name, file.sha256])),
    dev: `the ${DEV_PROBLEMS} problems of the published train.jsonl with the smallest sha256("${DEV_SEED}\\n" + question)`,
    annotations: "calculator annotations <<…>> removed from all answers",
    files: Object.fromEntries(files.map(({ name, text, problems }) => [name, { problems, sha256: sha256(text) }])),
  };
  writeFolder(out, [...files, { name: "manifest.json", text: `${JSON.stringify(manifest, null, 2)}\n` }]);
  return Object.fromEntries(Object.entries(splits).map(([split, problems]) => [split, problems.length]));
}

/** Writes what is not there yet; the manifest comes last. */
function writeFolder(out: string, files: readonly { readonly name: string; readonly text: string }[]): void {
  const entries = files.map(({ name, text }) => ({ path: join(out, name), text }));
  for (const { path, text } of entries)
    if (existsSync(path) && readFileSync(path, "utf8") !== text)
      throw new UserError(
        `${path}: exists with other contents than this command writes. Choose another --out, or remove the file.`,
      );
  mkdirSync(out, { recursive: true });
  for (const { path, text } of entries) if (!existsSync(path)) writeWhole(path, text);
}

function readLocal(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new UserError(
      `--from: expected GSM8K's train.jsonl and test.jsonl, found no ${resolve(file)} that can be read (${messageOf(error)}). Check the folder.`,
    );
  }
}

async function download(address: string, progress: DownloadProgress): Promise<Uint8Array> {
  const giveFolder = "Check the connection, or give a folder with both files: --from DIR";
  try {
    // compressed, the announced length would not be that of what arrives
    const response = await fetch(address, { headers: { "accept-encoding": "identity" } });
    if (!response.ok)
      throw new UserError(`${address}: expected the file, the server answered ${response.status}. ${giveFolder}`);
    progress.note(address);
    progress.total(Number(response.headers.get("content-length") ?? 0), 0);
    const chunks: Uint8Array[] = [];
    for await (const chunk of response.body ?? []) {
      chunks.push(chunk as Uint8Array);
      progress.add((chunk as Uint8Array).length);
    }
    return Buffer.concat(chunks);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${address}: cannot be downloaded (${networkReason(error)}). ${giveFolder}`);
  }
}
