import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { trajectories } from "../../src/run/journal-lines.js";
import { runConfigSchema } from "../../src/config/schema.js";
import { UserError } from "../../src/errors.js";
import { encode, joinFrames } from "../../src/protocol/codec.js";
import {
  Journal,
  batchFile,
  journalBatches,
  readBatchFile,
  recoverJournal,
  thinJournal,
} from "../../src/run/journal.js";
import { Ledger } from "../../src/learner/rollouts/ledger.js";
import { answer, later, ledgerOptions, makeTask, temporaryDirectory, weights } from "../support/rollout-fixtures.js";

function openJournal(directory: string): Journal {
  const journal = new Journal(directory, (error) => {
    throw error;
  });
  later(() => journal.close());
  return journal;
}

function record(taskId: string, iteration = 0, batch = 0) {
  const task = makeTask(taskId, { batch });
  return { type: "trajectory" as const, task, group: answer(task, weights(iteration).version) };
}

function ledger(runDir: string, firstIteration: number, fields = {}): Ledger {
  const opened = new Ledger(ledgerOptions({ runDir, firstIteration, ...fields }));
  later(() => opened.close());
  return opened;
}

/** Publishes weights of an iteration and answers `count` of its open tasks with them. */
function answerSome(target: Ledger, iteration: number, count: number): string[] {
  const { version } = weights(iteration);
  target.publish(version);
  const answered: string[] = [];
  for (let i = 0; i < count; i++) {
    const task = target.book.lease("actor", 100, 0, false)!;
    expect(target.receive(answer(task, version)).kind).toBe("accepted");
    answered.push(task.taskId);
  }
  return answered;
}

describe("journal", () => {
  it("reads back what was written, batch by batch, in order", async () => {
    const directory = temporaryDirectory();
    const journal = openJournal(directory);
    const records = [
      record("a"),
      record("b"),
      { type: "advantages" as const, taskId: "a", advantages: [Float32Array.of(1, -2), Float32Array.of(0.5)] },
    ];
    for (const r of records) journal.append(3, r);
    journal.append(12, record("c"));
    expect(readBatchFile(batchFile(directory, 3))).toEqual({ records, tornBytes: 0, damagedRecords: 0 });
    await journal.closeBefore(4);
    journal.append(3, record("d"));
    expect(readBatchFile(batchFile(directory, 3)).records).toHaveLength(4);
    expect(journalBatches(directory)).toEqual([3, 12]);
  });

  it("a file cut or damaged anywhere gives every whole record but the one at that place", () => {
    const directory = temporaryDirectory();
    const journal = openJournal(directory);
    const file = batchFile(directory, 0);
    const ends = ["a", "b", "c"].map((id) => {
      journal.append(0, record(id));
      return readFileSync(file).length;
    });
    const whole = readFileSync(file);
    const copy = join(directory, "copy.bin");
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.boolean(), (place, cut) => {
        const bytes = Buffer.from(whole);
        if (!cut) bytes[place]! ^= 0x40;
        writeFileSync(copy, cut ? bytes.subarray(0, place) : bytes);
        const { records, tornBytes, damagedRecords } = readBatchFile(copy);
        const intact = ends.filter((end) => end <= place).length;
        const expected = ["a", "b", "c"].filter((_, i) => i < intact || (!cut && i > intact));
        expect(records.map((r) => r.type === "trajectory" && r.task.taskId)).toEqual(expected);
        // damage in the last record cannot be told from a torn tail
        const isTail = cut || intact === ends.length - 1;
        expect(damagedRecords).toBe(isTail ? 0 : 1);
        expect(tornBytes).toBe(isTail ? (cut ? place : whole.length) - (ends[intact - 1] ?? 0) : 0);
      }),
    );
  });

  it("recovery cuts torn tails, and the file can be appended to again", () => {
    const directory = temporaryDirectory();
    openJournal(directory).append(0, record("a"));
    appendFileSync(batchFile(directory, 0), "torn");
    expect(recoverJournal(directory, 5, () => false)).toEqual({ kept: 0, discarded: 0, tornTails: 1, damaged: [] });
    openJournal(directory).append(0, record("b"));
    const { records, tornBytes } = readBatchFile(batchFile(directory, 0));
    expect([records.length, tornBytes]).toEqual([2, 0]);
  });

  it("a record of another release under a right checksum is left out, counted and named; the rest serves", () => {
    const directory = temporaryDirectory();
    const journal = openJournal(directory);
    const file = batchFile(directory, 0);
    journal.append(0, record("a"));
    const payload = joinFrames(encode({ type: "trajectory", invented: true }));
    const header = Buffer.alloc(8);
    header.writeUInt32LE(payload.length, 0);
    header.writeUInt32LE(crc32(payload), 4);
    appendFileSync(file, Buffer.concat([header, payload]));
    openJournal(directory).append(0, record("b"));
    expect(recoverJournal(directory, 0, () => true)).toEqual({
      kept: 2,
      discarded: 0,
      tornTails: 0,
      damaged: [{ file, records: 1 }],
    });
    expect(readBatchFile(file).records).toHaveLength(2);
  });

  it("advantages of other lengths than their header says are a damaged record", () => {
    const directory = temporaryDirectory();
    openJournal(directory);
    const write = (lengths: number[], rows: Float32Array[]): void => {
      const payload = joinFrames(encode({ type: "advantages", taskId: "a", lengths }, rows));
      const header = Buffer.alloc(8);
      header.writeUInt32LE(payload.length, 0);
      header.writeUInt32LE(crc32(payload), 4);
      appendFileSync(batchFile(directory, 0), Buffer.concat([header, payload]));
    };
    const rows = [Float32Array.of(1, 2), Float32Array.of(3)];
    write([2, 1], rows);
    write([1, 2], rows);
    write([2, 1, 0], rows);
    write([2], rows);
    expect(readBatchFile(batchFile(directory, 0))).toEqual({
      records: [{ type: "advantages", taskId: "a", advantages: rows }],
      tornBytes: 0,
      damagedRecords: 3,
    });
  });

  it("a task that was set aside stays so after a resume, and its substitute's answer serves", async () => {
    const runDir = temporaryDirectory();
    const notes: string[] = [];
    const before = ledger(runDir, 0, { note: (message: string) => notes.push(message) });
    const { version } = weights(0);
    before.publish(version);
    before.setAside("b0-1");
    while (before.book.lease("a", 100, 0, false) !== null);
    expect(before.receive(answer(makeTask("b0-1-r1"), version, "a")).kind).toBe("accepted");
    await before.close();
    const after = ledger(runDir, 0);
    after.publish(version);
    expect(after.book.find("b0-1")).toBe("finished");
    expect(after.book.find("b0-1-r1")).toBe("finished");
    expect(after.totals).toMatchObject({ journal_groups_reused: 1 });
  });

  it("thinning deletes the oldest batches alone", () => {
    const directory = temporaryDirectory();
    const journal = openJournal(directory);
    for (const batch of [0, 1, 2, 10]) journal.append(batch, record(`t${batch}`, 0, batch));
    expect(thinJournal(directory, 2)).toBe(2);
    expect(journalBatches(directory)).toEqual([2, 10]);
  });
});

describe("resume", () => {
  it("uses what older weights sampled, discards and asks again what later weights sampled", async () => {
    const runDir = temporaryDirectory();
    // Killed during iteration 2: batch 1 complete, batch 2 has 2 groups of weights 1 and 2 of
    // weights 2, batch 3 has 2.
    const before = ledger(runDir, 0);
    answerSome(before, 0, 8);
    const byOne = answerSome(before, 1, 2);
    answerSome(before, 2, 4);
    await before.close();
    expect(readBatchFile(batchFile(join(runDir, "trajectories"), 2)).records).toHaveLength(4);

    // The checkpoint is of iteration 1.
    const after = ledger(runDir, 1);
    after.publish(weights(1).version);
    expect(after.totals).toMatchObject({ journal_groups_reused: 6, journal_groups_discarded: 4 });
    // Batch 1 was sampled by weights 0, before the checkpoint: complete at once, nothing sampled
    // twice.
    const batch1 = await after.batch(1);
    expect(batch1.groups.map((g) => g.taskId)).toEqual(["b1-0", "b1-1", "b1-2", "b1-3"]);
    // Of batch 2 exactly the discarded tasks are open again.
    const open: string[] = [];
    for (let task; (task = after.book.lease("x", 100, 0, false)) !== null;) open.push(task.taskId);
    expect(byOne).toEqual(["b2-0", "b2-1"]);
    expect(open).toEqual(["b2-2", "b2-3"]);
  });

  it("a trajectory of the resumed iteration but of other weights is discarded", async () => {
    const runDir = temporaryDirectory();
    const before = ledger(runDir, 0);
    answerSome(before, 0, 3);
    await before.close();
    const after = ledger(runDir, 0);
    after.publish({ iteration: 0, sha256: "f".repeat(64) });
    expect(after.totals).toMatchObject({ journal_groups_reused: 0, journal_groups_discarded: 3 });
    expect(after.book.find("b0-0")).not.toBe("finished");
  });

  it("a trajectory whose prompt is no longer the task's is discarded", async () => {
    const runDir = temporaryDirectory();
    const before = ledger(runDir, 0);
    answerSome(before, 0, 1);
    await before.close();
    const other = ledger(runDir, 0, {
      taskAt: (batch: number, slot: number) => makeTask(`b${batch}-${slot}`, { batch, promptIds: Int32Array.of(9) }),
    });
    other.publish(weights(0).version);
    expect(other.totals["journal_groups_discarded"]).toBe(1);
  });

  it("substitutes of dynamic sampling are found again", async () => {
    const runDir = temporaryDirectory();
    const fields = { maxReplacements: 2 };
    const before = ledger(runDir, 0, fields);
    const { version } = weights(0);
    before.publish(version);
    const task = before.book.lease("a", 100, 0, false)!;
    before.receive(answer(task, version, "a", true));
    const substitute = before.book.find("b0-0-r1");
    expect(substitute).toMatchObject({ taskId: "b0-0-r1", batch: 0 });
    while (before.book.lease("a", 100, 0, false) !== null);
    before.receive(answer(makeTask("b0-0-r1"), version, "a"));
    await before.close();
    const after = ledger(runDir, 0, fields);
    after.publish(version);
    expect(after.totals).toMatchObject({ journal_groups_reused: 2, groups_filtered: 1 });
    expect(after.book.find("b0-0-r1")).toBe("finished");
  });
});

describe("trajectories command", () => {
  it("prints one JSON line per completion with total reward, versions and per-token advantages", async () => {
    const runDir = temporaryDirectory();
    const config = runConfigSchema.parse({ reward: { functions: [{ name: "correctness", weight: 2 }] } });
    writeFileSync(join(runDir, "config.json"), JSON.stringify(config));
    const journal = openJournal(join(runDir, "trajectories"));
    const first = record("a", 3, 3);
    journal.append(3, first);
    journal.append(3, record("b", 3, 3));
    const advantages = first.group.completions.map((c) => c.ids.length).map((n) => new Float32Array(n).fill(0.5));
    journal.append(3, { type: "advantages", taskId: "a", advantages });
    appendFileSync(batchFile(join(runDir, "trajectories"), 3), "torn");

    const out = new PassThrough();
    const warnings: string[] = [];
    const printed = text(out);
    await trajectories(runDir, out, (line) => warnings.push(line));
    out.end();
    const lines = (await printed)
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toHaveLength(4);
    const completion = first.group.completions[1]!;
    expect(lines[1]).toEqual({
      batch: 3,
      task_id: "a",
      completion: 1,
      actor: "actor",
      prompt_ids: [1, 2, 3],
      completion_ids: [...completion.ids],
      behaviour_logprobs: [...completion.behaviourLogprobs],
      reward: 2,
      rewards: { correctness: 1 },
      advantages: [...advantages[1]!],
      version: { iteration: 3, sha256: weights(3).version.sha256 },
      finish_reason: "stop",
      outcome: "wrong",
    });
    expect(lines[2]).toMatchObject({ task_id: "b", advantages: null });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("last 4 bytes");
  });

  it("refuses a folder without a run", async () => {
    await expect(trajectories(temporaryDirectory(), new PassThrough())).rejects.toThrow(UserError);
  });
});
