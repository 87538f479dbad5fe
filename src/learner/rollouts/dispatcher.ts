/**
 * The learner's side of the work socket: who is alive, who works on what, which answers count.
 *
 *   actor                       learner
 *     hello (capacity) ──────────▶  registered
 *     ◀───────── heartbeat (weights on offer), every second and at each new policy
 *     heartbeat (held, steps) ───▶  leases of held tasks renewed while the engine progresses
 *     ◀───────── task               as long as leased rows ≤ capacity (the actor's credits)
 *     group ─────────────────────▶  judged, journalled
 *     ◀───────── ack | refused
 *
 * A task stays leased until its answer is in the journal, or opens again, so nothing is lost.
 * Answers are recognised by task id, and the same task gives the same tokens: none counts twice.
 */
import type { Router } from "zeromq";
import type { PolicyVersion } from "../../model/identity.js";
import { ProtocolError, decode, encode, groupFromWire, taskToWire } from "../../protocol/codec.js";
import type { Task, TrajectoryGroup } from "../../protocol/messages.js";
import {
  type Addresses,
  HEARTBEAT_MS,
  SILENCE_MS,
  DamagedMessage,
  Writer,
  bindRouter,
  undamaged,
} from "../../protocol/sockets.js";
import { type ActorHeartbeat, type Hello, fromActor } from "../../protocol/wire-schemas.js";
import type { Ledger } from "./ledger.js";
import type { TrainingBatch } from "./rollout-source.js";
import { MAX_DEATHS } from "./task-book.js";
import { sameToken } from "./run-token.js";
import { WeightServer, type WeightServerOptions } from "./weight-server.js";

export interface DispatcherOptions extends Omit<WeightServerOptions, "count"> {
  readonly addresses: Addresses;
  /** Rows an actor must be able to take: the largest group. */
  readonly minCapacity: number;
  readonly ledger: Ledger;
  readonly heartbeatMs?: number;
  readonly silenceMs?: number;
}

/** Log lines and replies that useless messages may cost a tick: a flood fills no memory or disk. */
const SPARED_A_TICK = 100;
/** Frames of the largest message: header, ids, log-probabilities, checksum. */
const MAX_PARTS = 4;

interface ActorState {
  readonly id: string;
  capacity: number;
  lastSeenMs: number;
  report: Pick<ActorHeartbeat, "steps" | "busyMs" | "idleMs" | "counters" | "version">;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #ledger: Ledger;
  readonly #router: Router;
  readonly #writer: Writer;
  readonly #weights: WeightServer;
  readonly #actors = new Map<string, ActorState>();
  /** Peers that gave the token once: their answers count even after they were given up for dead. */
  readonly #admitted = new Set<string>();
  readonly #heartbeatMs: number;
  readonly #silenceMs: number;
  readonly #timer: NodeJS.Timeout;
  #lastTickMs = performance.now();
  #actorMs = { busy: 0, idle: 0 };
  #spared = SPARED_A_TICK;
  #closed = false;

  private constructor(options: DispatcherOptions, router: Router, weights: WeightServer) {
    this.#options = options;
    this.#ledger = options.ledger;
    this.#router = router;
    this.#writer = new Writer(router);
    this.#weights = weights;
    this.#heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS;
    this.#silenceMs = options.silenceMs ?? SILENCE_MS;
    this.#timer = setInterval(() => this.#tick(), this.#heartbeatMs);
    const { onFatal } = options.ledger.options;
    this.#receive().catch(onFatal);
    weights.serve().catch(onFatal);
  }

  /** Binds both sockets and starts listening. @throws UserError for a used port */
  static async start(options: DispatcherOptions): Promise<Dispatcher> {
    const router = await bindRouter(options.addresses.work);
    try {
      const count = (name: string) => options.ledger.count(name);
      return new Dispatcher(options, router, await WeightServer.bind(options.addresses.weights, { ...options, count }));
    } catch (error) {
      router.close();
      throw error;
    }
  }

  /** Offers new weights and opens their tasks; `packed` must stay as it is until the next call. */
  publish(packed: Float32Array, version: PolicyVersion): void {
    this.#weights.offer(packed, version);
    this.#ledger.publish(version);
    for (const actor of this.#actors.values()) this.#sendHeartbeat(actor.id);
    this.#assign();
  }

  /** All groups of batch k, with the actors' time since the batch before. */
  async batch(k: number): Promise<TrainingBatch> {
    const finished = await this.#ledger.batch(k);
    const { busy, idle } = this.#actorMs;
    this.#actorMs = { busy: 0, idle: 0 };
    return { batch: k, ...finished, actorBusySeconds: busy / 1_000, actorIdleSeconds: idle / 1_000 };
  }

  async evaluate(tasks: readonly Task[], onDone: (done: number) => void): Promise<TrajectoryGroup[]> {
    const answers = this.#ledger.evaluate(tasks, onDone);
    this.#assign();
    return answers;
  }

  /** Running totals: the learner's own, and the actors' (prefix `actor_`). */
  stats(): Record<string, number> {
    const totals = this.#ledger.totals;
    const current = this.#weights.announcement?.sha256;
    totals["actors_live"] = this.#actors.size;
    const usesCurrent = ({ report }: ActorState): boolean => report.version?.sha256 === current;
    totals["actors_on_current_weights"] = [...this.#actors.values()].filter(usesCurrent).length;
    return totals;
  }

  /** Tells the actors to stop, then closes the sockets. */
  async close(reason: string): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    const message = encode({ type: "stop", reason });
    await Promise.allSettled([...this.#actors.keys()].map((id) => this.#writer.send(message, id)));
    this.#router.close();
    this.#weights.close();
  }

  async #receive(): Promise<void> {
    for await (const [identity, ...frames] of this.#router) {
      const id = identity!.toString("latin1");
      try {
        this.#handle(id, frames);
      } catch (error) {
        if (error instanceof DamagedMessage) this.#ledger.count("messages_damaged");
        else if (error instanceof ProtocolError) this.#refuseMalformed(id, error);
        else throw error;
      }
    }
  }

  #handle(id: string, frames: Buffer[]): void {
    if (frames.length > MAX_PARTS)
      throw new ProtocolError(`expected at most ${MAX_PARTS} frames, found ${frames.length}`);
    const { header, tensors } = decode(fromActor, undamaged(frames));
    if (header.type === "hello") return this.#welcome(id, header);
    if (!this.#admitted.has(id)) {
      this.#ledger.count("messages_unknown_sender");
      return this.#refuse(id, { type: "unknown" });
    }
    if (header.type === "bye") return this.#drop(id, `said bye: ${header.reason}`, false);
    const actor = this.#actors.get(id);
    if (actor !== undefined) actor.lastSeenMs = performance.now();
    // An actor given up for dead has to introduce itself again; its answers count all the same.
    else this.#refuse(id, { type: "unknown" });
    if (header.type === "group") {
      if (header.actorId !== id)
        throw new ProtocolError(`expected the group's actor to be ${id}, found ${header.actorId}`, header.taskId);
      this.#judge(groupFromWire(header, tensors));
    } else if (actor !== undefined) this.#note(actor, header);
    this.#assign();
  }

  #welcome(id: string, { token, pid, index, capacity }: Hello): void {
    if (!sameToken(token, this.#options.token)) {
      this.#ledger.count("actors_refused_token");
      return this.#refuse(id, { type: "refused", taskId: null, reason: "expected the token of this run", fatal: true });
    }
    const needed = this.#options.minCapacity;
    if (capacity < needed) {
      this.#ledger.count("actors_refused_capacity");
      const reason = `expected room for a group of ${needed} rows, found actors.max_rows ${capacity}`;
      return this.#refuse(id, { type: "refused", taskId: null, reason, fatal: true });
    }
    this.#admitted.add(id);
    const report = this.#actors.get(id)?.report ?? { steps: 0, busyMs: 0, idleMs: 0, counters: {}, version: null };
    this.#actors.set(id, { id, capacity, lastSeenMs: performance.now(), report });
    this.#ledger.count("actors_joined");
    this.#ledger.options.log("info", "actor joined", { actor: id, pid, index, capacity });
    this.#sendHeartbeat(id);
    this.#assign();
  }

  #note(actor: ActorState, heartbeat: ActorHeartbeat): void {
    const { report } = actor;
    // Held tasks are safe only while the engine moves: a stuck one loses its leases.
    const now = performance.now();
    if (heartbeat.steps > report.steps) this.#ledger.book.renew(actor.id, heartbeat.held, now);
    const lost = this.#ledger.book.releaseLost(actor.id, heartbeat.held, now);
    if (lost > 0) this.#ledger.count("tasks_released_lost", lost);
    this.#actorMs.busy += Math.max(0, heartbeat.busyMs - report.busyMs);
    this.#actorMs.idle += Math.max(0, heartbeat.idleMs - report.idleMs);
    for (const [name, total] of Object.entries(heartbeat.counters)) {
      const news = total - (report.counters[name] ?? 0);
      if (news > 0) this.#ledger.count(`actor_${name}`, news);
    }
    actor.capacity = heartbeat.capacity;
    actor.report = heartbeat;
  }

  #judge(group: TrajectoryGroup): void {
    const verdict = this.#ledger.receive(group);
    const { taskId, actorId } = group;
    if (verdict.kind === "refused")
      this.#refuse(actorId, { type: "refused", taskId, reason: verdict.reason, fatal: false });
    else this.#send(actorId, { type: "ack", taskId });
  }

  #refuseMalformed(id: string, error: ProtocolError): void {
    const { taskId } = error;
    // A peer that never managed a hello (another release, perhaps) cannot be of use.
    const reason = error.message.slice(0, 1_000);
    if (this.#spared-- > 0) this.#ledger.options.log("warn", "malformed message refused", { actor: id, reason });
    if (taskId === null || !this.#admitted.has(id)) this.#ledger.count("messages_malformed");
    else this.#ledger.refuse({ taskId, actorId: id }, "groups_refused_malformed", error.message);
    this.#refuse(id, { type: "refused", taskId, reason, fatal: !this.#admitted.has(id) });
    this.#assign();
  }

  /** Leases open tasks, each to the actor with most room, so that a batch spreads evenly. */
  #assign(): void {
    const room = [...this.#actors.values()].map((actor) => ({
      id: actor.id,
      rows: actor.capacity - this.#ledger.book.leasedCompletions(actor.id),
    }));
    for (;;) {
      room.sort((a, b) => b.rows - a.rows);
      const leased = room.some((actor) => {
        const task = this.#ledger.book.lease(actor.id, actor.rows, performance.now(), room.length > 1);
        if (task === null) return false;
        actor.rows -= task.groupSize;
        this.#ledger.count("tasks_leased");
        const { header, tensors } = taskToWire(task);
        this.#send(actor.id, header, tensors);
        return true;
      });
      if (!leased) return;
    }
  }

  #tick(): void {
    const now = performance.now();
    const passed = now - this.#lastTickMs;
    this.#spared = SPARED_A_TICK;
    this.#lastTickMs = now;
    // This thread stood still (a suspended machine or job), and the actors perhaps too: their
    // heartbeats wait in the socket, and nobody could work.
    if (passed > 3 * this.#heartbeatMs) {
      this.#ledger.book.extend(passed);
      for (const actor of this.#actors.values()) actor.lastSeenMs += passed;
      return;
    }
    for (const actor of this.#actors.values())
      if (now - actor.lastSeenMs > this.#silenceMs)
        this.#drop(actor.id, `silent for ${Math.round(this.#silenceMs / 1000)} s`, true);
    const { released, poisonous } = this.#ledger.book.releaseExpired(now);
    if (released > 0) {
      this.#ledger.count("tasks_released_timeout", released);
      this.#ledger.note(`${released} leases expired: no answer in time; the tasks are asked of others.`);
    }
    this.#setAside(poisonous);
    for (const id of this.#actors.keys()) this.#sendHeartbeat(id);
    this.#assign();
  }

  /** Forgets an actor. @param isDead it died or hung, rather than saying bye */
  #drop(id: string, reason: string, isDead: boolean): void {
    if (!this.#actors.delete(id)) return;
    const { book } = this.#ledger;
    const { released, poisonous } = isDead ? book.releaseDead(id) : { released: book.releaseActor(id), poisonous: [] };
    this.#ledger.count("actors_lost");
    this.#ledger.count("tasks_released_actor_gone", released);
    this.#ledger.options.log("warn", "actor lost", { actor: id, reason, releasedTasks: released });
    if (isDead) this.#ledger.note(`${id} is lost (${reason}); ${released} tasks are asked of others.`);
    this.#setAside(poisonous);
    this.#assign();
  }

  #setAside(taskIds: readonly string[]): void {
    for (const taskId of taskIds) {
      this.#ledger.setAside(taskId);
      this.#ledger.note(`task ${taskId} is set aside: ${MAX_DEATHS} actors died or hung over it.`);
    }
  }

  #sendHeartbeat(id: string): void {
    this.#send(id, { type: "heartbeat", weights: this.#weights.announcement });
  }

  /** Says no as long as a tick spares it; whoever hears nothing asks again. */
  #refuse(id: string, header: object): void {
    if (this.#spared-- > 0) this.#send(id, header);
  }

  #send(id: string, header: object, tensors: readonly ArrayBufferView[] = []): void {
    if (this.#closed) return;
    // ROUTER_MANDATORY: an unreachable actor is an error here, not silence.
    this.#writer.send(encode(header, tensors), Buffer.from(id, "latin1")).catch((error: unknown) => {
      if (!this.#closed) this.#drop(id, `unreachable: ${String(error)}`, true);
    });
  }
}
