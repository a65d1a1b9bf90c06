// A world around the machine: a server with logs, sockets that break, and an application. A trace is an array of
// integers; each one decides a step, as in clients/python/tests/world.py, which has more rules. `Violation` is thrown by
// the step that breaks the promise: of each log the application gets a contiguous run of entries, in order and each
// once, or it is told first that the log lost continuity.
import { namedMachine } from "./machines.js";

export class Violation extends Error {}

const LOGS = ["a", "b", 0, 1];
const NAMES = { 0: "box", 1: "all" };
/** Positions as frames have them. */
const positions = (at) => ({
  at: Object.fromEntries([...at].filter(([log]) => typeof log === "string")),
  ...Object.fromEntries([...at].filter(([log]) => typeof log !== "string").map(([log, id]) => [NAMES[log], id])),
});
const placeOf = (cursor, log) => typeof log === "string" ? cursor.at[log] : cursor[NAMES[log]];

/** One log: all entries that it ever had, and the number of those that it has lost. */
class Log {
  entries = [];
  trimmed = 0;
  get top() {
    return this.entries.at(-1)?.id ?? 0;
  }
  /** The number of entries up to an id. */
  countTo(id) {
    return this.entries.filter((entry) => entry.id <= id).length;
  }
}

export class World {
  now = 0;
  lastId = 0;
  session = 0;
  logs = new Map(LOGS.map((log) => [log, new Log()]));
  wires = new Map();
  expected = new Map();
  keys = new Set();
  delivered = 0;
  losses = 0;
  queue = [];
  isBusy = false;
  isCalm = false;

  /**
   * @param {number[]} trace After its end the first choice is taken.
   * @param {(frame: any) => any[]} fault What becomes of a frame of the server: to show that the checks find a defect.
   */
  constructor(trace, fault = (frame) => [frame]) {
    this.trace = trace[Symbol.iterator]();
    this.fault = fault;
    this.machine = namedMachine({ _random: () => this.below(8) / 8, _maxHeld: 6 });
  }
  below(bound) {
    return (this.trace.next().value ?? 0) % bound;
  }

  // The machine and its actions.

  tell(event, ...parameters) {
    const actions = this.machine.tell(event, this.now, ...parameters);
    const cursor = JSON.parse(this.machine.cursor() || "null");
    for (const [log, { countTo }] of this.logs) {
      const position = cursor && placeOf(cursor, log);
      if (position != null && !this.expected.has(log)) this.expected.set(log, countTo.call(this.logs.get(log), position));
    }
    this.queue.push(...actions);
    if (this.isBusy) return;
    this.isBusy = true;
    for (let action; action = this.queue.shift();) this.carryOut(...action);
    this.isBusy = false;
  }
  carryOut(effect, ...parameters) {
    if (effect === "dial") {
      const [generation, items] = parameters;
      this.wires.set(generation, { generation, items, toClient: [], toServer: [], isOver: false, isAttached: false, isOpen: false });
      const cursor = items.find((item) => item.includes(".resume.") && !item.endsWith(".later"));
      if (cursor) this.checkCursor(this.decoded(cursor));
    }
    if (effect === "close") this.hangUp(this.wires.get(parameters[0]));
    if (effect === "send") this.wires.get(parameters[0]).toServer.push(parameters[1]);
    if (effect === "message") this.receive(...parameters);
    if (effect === "lost") {
      const [log, top] = parameters;
      this.losses++;
      this.expected.set(log, this.logs.get(log).countTo(top));
    }
  }
  receive(log, id, key) {
    if (!id) return;
    const { entries } = this.logs.get(log), next = this.next(log);
    if (entries[next]?.id !== id) throw new Violation(`${id} of ${log} came, and ${entries[next]?.id} is the next one`);
    this.expected.set(log, next + 1);
    if (entries[next].key) this.keys.add(entries[next].key);
    this.delivered++;
    if (this.isCalm) return;
    const choice = this.below(16); // be a handler
    if (choice === 15) this.tell("reconnect");
    if (choice === 14) {
      this.tell("end");
      this.tell("start");
    }
  }
  /** The number of the next entry that the application must get: one whose key came through another room is left out. */
  next(log) {
    const { entries } = this.logs.get(log);
    let number = this.expected.get(log);
    while (this.keys.has(entries[number]?.key)) number++;
    return number;
  }
  decoded(item) {
    return JSON.parse(Buffer.from(item.split(".resume.")[1], "base64url").toString());
  }
  checkCursor(cursor) {
    for (const log of LOGS) {
      const position = placeOf(cursor, log);
      if (position == null) continue;
      const count = this.logs.get(log).countTo(position);
      if (count < this.expected.get(log) || count > this.next(log)) throw new Violation(`the cursor has ${position} of ${log}`);
    }
  }

  // The server.

  attach(wire, cursor) {
    const at = new Map(), lost = [], replay = [];
    for (const [log, { top, entries, trimmed, countTo }] of this.logs) {
      const position = cursor && placeOf(cursor, log), known = position == null ? 0 : countTo.call({ entries }, position);
      const isWhole = position != null && known >= trimmed;
      at.set(log, isWhole ? position : top);
      if (isWhole) replay.push(...entries.slice(known).map((entry) => [log, entry]));
      else if (cursor) lost.push([log, top, "trimmed"]);
    }
    wire.isAttached = true;
    const hi = { v: 1, id: "ann", sid: `s${++this.session}`, t: this.lastId, ping: 25, pong: false, ...positions(at) };
    this.send(wire, { hi: { ...hi, ...cursor && { re: !lost.length, lost } } });
    replay.sort(([, a], [, b]) => a.id - b.id);
    for (const [log, entry] of replay) this.deliver(wire, log, entry);
    this.send(wire, { live: replay.length });
  }
  send(wire, frame) {
    if (!wire.isOver) wire.toClient.push(...this.fault(frame).map((frame) => JSON.stringify(frame)));
  }
  deliver(wire, log, { id, key }) {
    this.send(wire, [id, log, "x", ...key ? [key] : []]);
  }
  attached() {
    return [...this.wires.values()].filter(({ isAttached, isOver }) => isAttached && !isOver);
  }
  publish(...logs) {
    const key = logs.length > 1 ? `u${this.lastId}` : undefined;
    for (const log of logs) {
      const entry = { id: ++this.lastId, key };
      this.logs.get(log).entries.push(entry);
      for (const wire of this.attached()) {
        if (log === logs[0]) this.deliver(wire, log, entry);
        else this.send(wire, positions(new Map([[log, entry.id]])));
      }
    }
  }
  hangUp(wire, code) {
    if (!wire || wire.isOver) return;
    wire.isOver = true;
    if (code) wire.toClient.push([code, ""]);
    else wire.toClient = [];
  }

  // Steps.

  run(steps) {
    this.tell("start");
    for (let step = 0; step < steps; step++) this.step();
    this.settle();
    return this;
  }
  step() {
    const kinds = [
      ...Array(12).fill(this.move), ...Array(5).fill(this.publishOne), this.publishBoth, this.publishBoth, this.cut, this.cut,
      this.halfOpen, this.trim, this.drain, this.closeByServer, this.advance, this.advance, this.network, this.whisper,
    ];
    kinds[this.below(kinds.length)].call(this);
  }
  moves() {
    return [...this.wires.values()].flatMap((wire) => [
      ...!wire.isOpen && !wire.isOver ? [() => this.open(wire)] : [],
      ...wire.toClient.length ? [() => this.toClient(wire)] : [],
      ...wire.toServer.length ? [() => this.toServer(wire)] : [],
    ]);
  }
  move() {
    const moves = this.moves();
    moves[this.below(moves.length || 1)]?.();
  }
  open(wire) {
    wire.isOpen = true;
    const item = wire.items.find((item) => item.includes(".resume."));
    if (!item?.endsWith(".later")) this.attach(wire, item && this.decoded(item));
    this.tell("opened", wire.generation, "stabilizer.v1");
  }
  toClient(wire) {
    const item = wire.toClient.shift();
    if (typeof item === "string") this.tell("frame", wire.generation, item);
    else this.tell("closed", wire.generation, ...item);
  }
  toServer(wire) {
    const frame = JSON.parse(wire.toServer.shift());
    if (wire.isOver) return;
    if (!wire.isAttached) {
      this.checkCursor(frame.resume);
      this.attach(wire, frame.resume);
    } else if (frame.ping) {
      this.send(wire, {});
    }
  }
  publishOne() {
    this.publish(LOGS[this.below(4)]);
  }
  publishBoth() {
    this.publish("a", "b");
  }
  whisper() {
    for (const wire of this.attached()) this.send(wire, [0, LOGS[this.below(4)], "x"]);
  }
  trim() {
    const log = this.logs.get(LOGS[this.below(4)]);
    log.trimmed = log.entries.length - this.below(2) * +(log.entries.length > 0);
  }
  cut() {
    const wires = this.attached(), wire = wires[this.below(wires.length || 1)];
    if (wire) wire.toClient.splice(this.below(wire.toClient.length + 1));
    this.hangUp(wire, 1006);
  }
  halfOpen() {
    const wires = this.attached(), wire = wires[this.below(wires.length || 1)];
    if (wire) Object.assign(wire, { isOver: true, toServer: [] });
  }
  drain() {
    for (const wire of this.attached()) this.send(wire, { go: { in: 800 } });
  }
  closeByServer() {
    this.hangUp(this.attached()[0], [1012, 4008, 1000][this.below(3)]);
  }
  network() {
    this.tell(this.below(2) ? "offline" : "online");
  }
  advance() {
    const at = this.machine.timerAt();
    this.now = this.below(2) && at < Infinity ? Math.max(at, this.now) : this.now + this.below(8) * 1_000;
    this.tell("timer");
  }
  /** Let everything come to rest without faults, and check that nothing is missing. */
  settle() {
    this.isCalm = true;
    this.tell("online");
    for (let round = 0; round < 300; round++) {
      for (let move; move = this.moves()[0];) move();
      const [wire, ...others] = this.attached();
      if (this.machine.status() === "live" && wire && !others.length) return this.checkComplete();
      this.now = Math.max(this.now, this.machine.timerAt());
      this.tell("timer");
    }
    throw new Violation(`it never comes to rest: ${this.machine.status()}`);
  }
  checkComplete() {
    for (const [log, { entries }] of this.logs) {
      if (this.next(log) !== entries.length) throw new Violation(`${log} has ${entries.length} entries, the application ${this.next(log)}`);
    }
  }
}
