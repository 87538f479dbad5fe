/**
 * `download-model`: shows a download's progress on stderr and prints the model's folder on stdout.
 */
import { downloadModel } from "../model/download.js";
import { byteBar } from "../terminal/byte-bar.js";

export interface DownloadModelOptions {
  /** Branch, tag or commit. */
  readonly revision: string;
}

export async function runDownloadModel(repo: string, { revision }: DownloadModelOptions): Promise<void> {
  const progress = byteBar();
  let folder: string;
  try {
    folder = await downloadModel(repo, { revision, progress });
  } finally {
    progress.stop();
  }
  process.stderr.write(`${repo} is complete; its folder, for --model.path=… and --model:\n`);
  console.log(folder);
}
