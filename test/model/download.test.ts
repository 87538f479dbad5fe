import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getHFHubCachePath } from "@huggingface/hub";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { cli } from "../../src/cli.js";
import { loadConfig } from "../../src/config/load.js";
import { UserError } from "../../src/errors.js";
import { readModelConfig } from "../../src/model/config.js";
import { type DownloadOptions, downloadModel } from "../../src/model/download.js";
import { findToken } from "../../src/model/hub-client.js";
import { type Environment, hubCache, resolveModelFolder } from "../../src/model/hub.js";
import { etagOf, startHub, type StandIn } from "../support/hub.js";

const repo = "acme/tiny-1.5";
const token = "hf_NeverToBeSeenAnywhere123";
const shard = (bytes: number): Buffer => randomBytes(bytes);
const files: Record<string, Buffer> = {
  "config.json": Buffer.from('{"model_type": "qwen2"}'),
  "generation_config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"é": 1}'),
  "tokenizer_config.json": Buffer.from("{ }"),
  "model.safetensors.index.json": Buffer.from(
    JSON.stringify({ weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" } }),
  ),
  "model-00001-of-00002.safetensors": shard(300_000),
  "model-00002-of-00002.safetensors": shard(200_000),
  "README.md": Buffer.from("not needed"),
  "consolidated.safetensors": shard(10),
  "pytorch_model.bin": shard(10),
};
const first = "model-00001-of-00002.safetensors";
const needed = Object.keys(files)
  .filter((name) => !/README|consolidated|pytorch/.test(name))
  .sort();

const root = mkdtempSync(join(tmpdir(), "finellama-download-"));
afterAll(() => rmSync(root, { recursive: true }));
let hub: StandIn;
let home: string;
let env: Record<string, string>;
let notes: string[];
let arrived: number;
beforeEach(async () => {
  hub = await startHub(repo, files);
  home = mkdtempSync(join(root, "home-"));
  env = { HOME: home, HF_ENDPOINT: hub.url, HF_HOME: join(home, "hf") };
  notes = [];
  arrived = 0;
});
afterEach(() => hub.close());

const download = (options: Partial<DownloadOptions> = {}, id = repo): Promise<string> =>
  downloadModel(id, {
    env,
    cwd: home,
    retryDelayMs: 1,
    progress: { total: () => {}, add: (bytes) => (arrived += bytes), note: (line) => notes.push(line) },
    ...options,
  });
const failure = async (options?: Partial<DownloadOptions>, id?: string): Promise<string> => {
  const error: unknown = await download(options, id).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).not.toContain(token);
  return (error as Error).message;
};
const cached = (...path: string[]): string => join(home, "hf", "hub", "models--acme--tiny-1.5", ...path);
const blobOf = (name: string): string => cached("blobs", etagOf(name, files[name]!));
const transfers = (name: string): typeof hub.asked =>
  hub.asked.filter((asked) => asked.storage && asked.path.endsWith(name));

describe("a download", () => {
  test("brings what is needed, into the cache's standard layout", async () => {
    const folder = await download();
    expect(folder).toBe(cached("snapshots", hub.commit));
    expect(readFileSync(cached("refs", "main"), "utf8")).toBe(hub.commit);
    expect(readdirSync(folder).sort()).toEqual(needed);
    for (const name of needed) {
      expect(readlinkSync(join(folder, name))).toBe(`../../blobs/${etagOf(name, files[name]!)}`);
      expect(readFileSync(join(folder, name)).equals(files[name]!)).toBe(true);
    }
    expect(readdirSync(cached("blobs")).some((name) => name.endsWith(".incomplete"))).toBe(false);
    expect(arrived).toBe(needed.reduce((sum, name) => sum + files[name]!.length, 0));
  });

  test("a second time transfers nothing", async () => {
    await download();
    hub.asked.length = 0;
    await download();
    expect(hub.asked.map(({ path }) => path).filter((path) => path.includes("/resolve/"))).toEqual([]);
  });

  test("of a commit or tag leaves main alone", async () => {
    expect(await download({ revision: hub.commit })).toBe(cached("snapshots", hub.commit));
    expect(existsSync(cached("refs"))).toBe(false);
    await download({ revision: "v1" });
    expect(readdirSync(cached("refs"))).toEqual(["v1"]);
  });

  test("takes model.safetensors alone where there is one, and refuses a repository without safetensors", async () => {
    await hub.close();
    const single = {
      "config.json": files["config.json"]!,
      "tokenizer.json": files["tokenizer.json"]!,
      "tokenizer_config.json": files["tokenizer_config.json"]!,
    };
    hub = await startHub(repo, { ...single, "model.safetensors": shard(50), "consolidated.safetensors": shard(50) });
    env["HF_ENDPOINT"] = hub.url;
    expect(readdirSync(await download()).sort()).toEqual([...Object.keys(single), "model.safetensors"].sort());
    await hub.close();
    hub = await startHub(repo, { ...single, "pytorch_model.bin": shard(50) });
    env["HF_ENDPOINT"] = hub.url;
    expect(await failure()).toMatch(/no safetensors weights/);
  });
});

describe("a cut", () => {
  test("is resumed where it happened, within a download", async () => {
    let cuts = 0;
    hub.transfer = (name, response, bytes) => {
      if (name !== first || ++cuts > 3) return false;
      response.writeHead(cuts === 1 ? 200 : 206, { "content-length": bytes.length });
      response.write(bytes.subarray(0, 80_000), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    const folder = await download();
    expect(readFileSync(join(folder, first)).equals(files[first]!)).toBe(true);
    expect(transfers(first).length).toBe(4);
    const begins = transfers(first).map(({ range }) => Number(/\d+/.exec(range ?? "0")![0]));
    // each request begins beyond the one before it
    expect(begins).toEqual([...new Set(begins)].sort((a, b) => a - b));
    expect(notes.filter((note) => note.includes("cut")).length).toBe(3);
    expect(arrived).toBe(needed.reduce((sum, name) => sum + files[name]!.length, 0));
  });

  test("that lasts ends with one message, keeps what arrived, and the next download goes on from there", async () => {
    let bytesLeft = 100_000;
    hub.transfer = (name, response, bytes) => {
      if (name !== first) return false;
      const part = bytes.subarray(0, bytesLeft);
      bytesLeft = 0;
      response
        .writeHead(200, { "content-length": bytes.length })
        .write(part, () => setTimeout(() => response.destroy(), 20));
      if (part.length === 0) response.destroy();
      return true;
    };
    expect(await failure()).toMatch(
      /model-00001-of-00002.safetensors: .*5 attempts without progress.*are kept.*again/s,
    );
    const kept = readFileSync(`${blobOf(first)}.incomplete`);
    expect(kept.length).toBeGreaterThan(0);
    expect(existsSync(cached("refs", "main"))).toBe(false);
    hub.transfer = undefined;
    hub.asked.length = 0;
    const folder = await download();
    expect(transfers(first).map(({ range }) => range)).toEqual([`bytes=${kept.length}-`]);
    expect(readFileSync(join(folder, first)).equals(files[first]!)).toBe(true);
  });

  test("is mended from the start when the server takes no ranges", async () => {
    mkdirSync(cached("blobs"), { recursive: true });
    writeFileSync(`${blobOf(first)}.incomplete`, files[first]!.subarray(0, 1000));
    hub.transfer = (name, response) => {
      if (name !== first) return false;
      response.writeHead(200).end(files[first]);
      return true;
    };
    expect(readFileSync(join(await download(), first)).equals(files[first]!)).toBe(true);
  });

  test("by a server that is busy for a moment is waited out", async () => {
    let busy = 2;
    hub.transfer = (_name, response) => (busy-- > 0 ? (response.writeHead(503).end(), true) : false);
    await download();
    expect(notes.filter((note) => note.includes("503")).length).toBe(2);
  });
});

describe("a wrong hash", () => {
  test.each([
    ["another content", (bytes: Buffer) => Buffer.alloc(bytes.length, 1)],
    ["more bytes", (bytes: Buffer) => Buffer.concat([bytes, Buffer.from("x")])],
  ])("(%s) is refused by the file's name, and nothing of it is kept", async (_, change) => {
    hub.transfer = (name, response, bytes) =>
      name === first ? (response.writeHead(200).end(change(bytes)), true) : false;
    expect(await failure()).toMatch(
      new RegExp(`${first}: expected 300000 bytes with the sha256 ${etagOf(first, files[first]!)}`),
    );
    expect(readdirSync(cached("blobs")).some((name) => name.startsWith(etagOf(first, files[first]!)))).toBe(false);
    expect(existsSync(join(cached("snapshots", hub.commit), first))).toBe(false);
  });

  test("of a small file is git's", async () => {
    hub.transfer = (name, response) =>
      name === "config.json" ? (response.writeHead(200).end('{"model_type": "qwenX"}'), true) : false;
    expect(await failure()).toMatch(/config.json: expected 23 bytes with the git hash/);
  });

  test("of bytes kept from an earlier download costs a fresh start, once", async () => {
    mkdirSync(cached("blobs"), { recursive: true });
    writeFileSync(`${blobOf(first)}.incomplete`, Buffer.alloc(1000));
    expect(readFileSync(join(await download(), first)).equals(files[first]!)).toBe(true);
    expect(transfers(first).map(({ range }) => range)).toEqual(["bytes=1000-", undefined]);
    expect(notes).toEqual([expect.stringContaining("kept from an earlier download")]);
  });
});

describe("a refusal", () => {
  test.each([
    [401, undefined, /shows no such model to the public \(401\).*HF_TOKEN/],
    [401, "GatedRepo", /refuses access \(401\). Accept the model's terms at http/],
    [403, "GatedRepo", /refuses access \(403\)/],
    [404, "RepoNotFound", /knows no such model or file \(404\)/],
    [418, undefined, /answered 418/],
  ])("%i %s without a token says what to do", async (status, code, message) => {
    hub.refuse = { path: /^\/api/, status, ...(code === undefined ? {} : { code }) };
    expect(await failure()).toMatch(message);
  });

  test.each([401, 403])("%i with a token names where the token is from", async (status) => {
    env["HF_TOKEN"] = token;
    hub.refuse = { path: /^\/api/, status };
    expect(await failure()).toMatch(/token from HF_TOKEN/);
  });

  test("of the weights alone, as gated models do, is told as well", async () => {
    hub.refuse = { path: /resolve.*safetensors/, status: 403, code: "GatedRepo" };
    expect(await failure()).toMatch(/Accept the model's terms/);
  });

  test("an unknown revision and a malformed name are told as such", async () => {
    expect(await failure({ revision: "v9" })).toMatch(/no such revision \(404\).*--revision/);
    expect(await failure({}, "not an id")).toMatch(/expected a model of the hub/);
  });

  test("an address that is no hub is told as such", async () => {
    hub.tree["config.json"] = { oid: "../../escape" };
    expect(await failure()).toMatch(/expected the hub's answers, found something else/);
  });
});

describe("without a connection", () => {
  test.each(["1", "ON", "yes", "True"])("HF_HUB_OFFLINE=%s asks nothing and takes what is complete", async (value) => {
    const folder = await download();
    hub.asked.length = 0;
    env["HF_HUB_OFFLINE"] = value;
    expect(await download()).toBe(folder);
    rmSync(join(folder, first));
    expect(await failure()).toMatch(new RegExp(`HF_HUB_OFFLINE is set.*lacks ${first}`));
    expect(await failure({}, "acme/other")).toMatch(/HF_HUB_OFFLINE is set.*holds no such model/);
    expect(hub.asked).toEqual([]);
  });

  test("the cached model is taken with a note; none is an error that names the reason", async () => {
    const folder = await download();
    env["HF_ENDPOINT"] = "http://127.0.0.1:9";
    expect(await download()).toBe(folder);
    expect(notes.at(-1)).toMatch(/cannot reach http:\/\/127.0.0.1:9 .*in the cache/);
    rmSync(cached(), { recursive: true });
    expect(await failure()).toMatch(/cannot reach .*holds no such model/);
  });
});

describe("a full disk", () => {
  test("is noticed before anything is transferred when the sizes say so", async () => {
    hub.tree[first] = { lfs: { oid: etagOf(first, files[first]!), size: 2 ** 52, pointerSize: 1 } };
    expect(await failure()).toMatch(/expected room for 4503599\.\d+ GB, found .* [GM]B\. Free some, or set HF_HOME/);
    expect(transfers(first)).toEqual([]);
  });

  test.skipIf(!existsSync("/dev/full"))("while writing ends with one message", async () => {
    mkdirSync(cached("blobs"), { recursive: true });
    // every write to this device fails with ENOSPC
    symlinkSync("/dev/full", `${blobOf(first)}.incomplete`);
    expect(await failure()).toMatch(/the disk is full \(ENOSPC\).*run the same command again/);
    expect(existsSync(cached("refs", "main"))).toBe(false);
  });

  test("a cache that cannot be written is told by its folder", async () => {
    writeFileSync(join(home, "file"), "");
    env["HF_HOME"] = join(home, "file");
    expect(await failure()).toMatch(/cannot write the cache .*ENOTDIR.*HF_HOME/);
  });
});

describe("the token", () => {
  test("comes from HF_TOKEN, then ~/.huggingface_token, then .env", () => {
    const find = (): string | undefined => findToken(env, home)?.value;
    expect(find()).toBeUndefined();
    writeFileSync(join(home, ".env"), 'OTHER=1\nexport HF_TOKEN="hf_c"\n');
    expect(find()).toBe("hf_c");
    writeFileSync(join(home, ".huggingface_token"), "hf_b\n");
    expect(find()).toBe("hf_b");
    env["HF_TOKEN"] = "hf_a";
    expect(find()).toBe("hf_a");
    env["HF_TOKEN"] = "";
    expect(find()).toBe("hf_b");
  });

  test("that is no token is refused by its source, without being shown", async () => {
    writeFileSync(join(home, ".huggingface_token"), `${token}\n${token}`);
    expect(await failure()).toMatch(/\.huggingface_token: expected a hub token \(one word\)/);
  });

  test("goes to the hub and not to its storage", async () => {
    env["HF_TOKEN"] = token;
    await download();
    expect(new Set(hub.asked.filter(({ storage }) => storage).map(({ authorization }) => authorization))).toEqual(
      new Set([undefined]),
    );
    expect(new Set(hub.asked.filter(({ storage }) => !storage).map(({ authorization }) => authorization))).toEqual(
      new Set([`Bearer ${token}`]),
    );
  });

  test("is in no output and in no file", async () => {
    let output = "";
    for (const stream of [process.stdout, process.stderr])
      vi.spyOn(stream, "write").mockImplementation((text) => ((output += String(text)), true));
    for (const method of ["log", "debug", "info", "warn", "error"] as const)
      vi.spyOn(console, method).mockImplementation((...words) => void (output += words.join(" ")));
    for (const [name, value] of Object.entries({
      ...env,
      HF_TOKEN: token,
      HF_HUB_CACHE: undefined,
      HF_HUB_OFFLINE: undefined,
    }))
      vi.stubEnv(name, value);
    try {
      let cuts = 1;
      hub.transfer = (name, response) => (name === first && cuts-- > 0 ? (response.writeHead(503).end(), true) : false);
      await cli(["download-model", repo]);
      hub.refuse = { path: /./, status: 401 };
      await cli(["download-model", repo]).catch((error: unknown) => (output += String((error as Error).stack)));
    } finally {
      vi.unstubAllEnvs();
      vi.restoreAllMocks();
    }
    expect(output).toContain(cached("snapshots", hub.commit));
    expect(output).toMatch(/token from HF_TOKEN/);
    expect(output).not.toContain(token);
    for (const path of readdirSync(home, { recursive: true, withFileTypes: true }))
      if (path.isFile()) expect(readFileSync(join(path.parentPath, path.name)).includes(token)).toBe(false);
  });
});

describe("a hub id as model folder", () => {
  test("is the cached snapshot; a folder of that name comes first", async () => {
    const folder = await download();
    expect(resolveModelFolder(repo, repo, env)).toBe(folder);
    expect(resolveModelFolder(repo, home, env)).toBe(home);
    expect(resolveModelFolder("acme/other", "acme/other", env)).toBe("acme/other");
    expect(() => readModelConfig("acme/other")).toThrow(/neither a folder .* download-model acme\/other/);
    vi.stubEnv("HF_HUB_CACHE", hubCache(env));
    try {
      const { config } = loadConfig({ cwd: home, overrides: [`--model.path=${repo}`] });
      expect(config.model.path).toBe(folder);
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test("that is incomplete is refused with what is missing", async () => {
    const folder = await download();
    rmSync(join(folder, "tokenizer.json"));
    rmSync(join(folder, first));
    expect(() => resolveModelFolder(repo, repo, env)).toThrow(
      /without tokenizer.json, model-00001.*download-model acme\/tiny-1.5/,
    );
  });

  test("is looked for where the hub's own library looks", () => {
    const cases: Environment[] = [
      {},
      { XDG_CACHE_HOME: "/xdg" },
      { XDG_CACHE_HOME: "/xdg", HF_HOME: "/hf" },
      { HF_HOME: "/hf", HUGGINGFACE_HUB_CACHE: "/old" },
      { HF_HOME: "/hf", HUGGINGFACE_HUB_CACHE: "/old", HF_HUB_CACHE: "/new" },
    ];
    const names = ["XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"];
    for (const set of cases) {
      for (const name of names) vi.stubEnv(name, set[name]);
      expect(hubCache()).toBe(getHFHubCachePath());
    }
    vi.unstubAllEnvs();
    expect(hubCache({ HOME: "/me", HF_HOME: "~/hf" })).toBe("/me/hf/hub");
  });
});
