/** A task that costs actors is found among innocent ones and set aside; nothing else is lost. */
import { describe, expect, it } from "vitest";
import { MAX_DEATHS, TaskBook } from "../../../src/learner/rollouts/task-book.js";
import type { Task } from "../../../src/protocol/messages.js";
import { answer, makeTask, weights } from "../../support/tasks.js";

const taskAt = (batch: number, slot: number, replacement: number): Task =>
  makeTask(`b${batch}-${slot}${replacement === 0 ? "" : `-r${replacement}`}`, { batch });
const options = {
  taskAt,
  groupsPerBatch: 4,
  maxBatches: 9,
  maxStaleness: 0,
  maxReplacements: 0,
  rewardsEqual: () => false,
  leaseMs: 1_000,
};
const { version } = weights(0);

function book(): TaskBook {
  const opened = new TaskBook(0, options);
  opened.advance(0);
  return opened;
}

/** Leases all that an actor may have. */
function leaseAll(opened: TaskBook, actor: string, nowMs = 0): string[] {
  const leased: string[] = [];
  for (let task; (task = opened.lease(actor, 100, nowMs, true)) !== null;) leased.push(task.taskId);
  return leased;
}

describe("a task whose actors die", () => {
  it("is told from innocent ones, set aside after three, and replaced in its place", () => {
    const opened = book();
    const poison = "b0-2";
    let deaths = 0;
    const poisonous: string[] = [];
    for (let life = 0; poisonous.length === 0 && life < 20; life++) {
      const actor = `actor-${life}`;
      const held = leaseAll(opened, actor);
      if (life > 0) expect(held.length).toBeLessThanOrEqual(1);
      if (held.includes(poison)) {
        deaths++;
        poisonous.push(...opened.releaseDead(actor).poisonous);
      } else for (const id of held) opened.complete(answer(taskAt(0, Number(id.at(-1)), 0), version, actor));
    }
    expect(poisonous).toEqual([poison]);
    expect(deaths).toBe(MAX_DEATHS);
    opened.setAside(poison);
    expect(opened.find(poison)).toBe("finished");
    const rest = leaseAll(opened, "healthy");
    while (rest.length > 0) {
      const id = rest.shift()!;
      opened.complete(answer(makeTask(id, { batch: 0 }), version, "healthy"));
      rest.push(...leaseAll(opened, "healthy"));
    }
    expect(opened.finishedBatch(0)!.tasks.map((task) => task.taskId)).toEqual(["b0-0", "b0-1", "b0-2-r1", "b0-3"]);
  });

  it("is not suspected where actors leave in good order, or after time in which nobody could work", () => {
    const opened = book();
    for (let i = 0; i < 9; i++) {
      expect(leaseAll(opened, `a${i}`)).toHaveLength(4);
      expect(opened.releaseActor(`a${i}`)).toBe(4);
    }
    expect(leaseAll(opened, "a", 0)).toHaveLength(4);
    opened.extend(600_000);
    expect(opened.releaseExpired(600_999).released).toBe(0);
    expect(opened.releaseExpired(601_001)).toEqual({ released: 4, poisonous: [] });
  });

  it("of an evaluation is left out of it", () => {
    const opened = book();
    const tasks = [0, 1, 2].map((i) => makeTask(`e${i}`, { kind: "eval", batch: 0, groupSize: 1 }));
    opened.addEvaluation(tasks);
    opened.setAside("e1");
    for (const i of [0, 2]) opened.complete(answer(tasks[i]!, version));
    expect(opened.takeEvaluation()!.map((group) => group.taskId)).toEqual(["e0", "e2"]);
  });
});

describe("a task that never reached its actor", () => {
  it("is asked of another after ten seconds, without blame, unless the actor says that it holds it", () => {
    const opened = book();
    expect(leaseAll(opened, "a")).toHaveLength(4);
    expect(opened.releaseLost("a", ["b0-1"], 10_000)).toBe(0);
    expect(opened.releaseLost("b", [], 10_001)).toBe(0);
    expect(opened.releaseLost("a", ["b0-1"], 10_001)).toBe(3);
    // a lease without suspects would be limited to one at a time
    expect(leaseAll(opened, "b", 10_001)).toEqual(["b0-0", "b0-2", "b0-3"]);
  });
});
