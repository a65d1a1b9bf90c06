// Rules of the machine that random schedules meet too seldom.
import assert from "node:assert/strict";
import { test } from "node:test";
import { namedMachine } from "./machines.js";

/** Open the socket of a generation, and let the server say hi. Return the actions of both. */
function greet(machine, now, generation, hi = {}) {
  const whole = { v: 1, id: "ann", sid: `s${generation}`, t: 5, ping: 25, pong: false, at: { a: 1 }, ...hi };
  return [
    ...machine.tell("opened", now, generation, "stabilizer.v1"),
    ...machine.tell("frame", now, generation, JSON.stringify({ hi: whole })),
  ];
}
/** A client that was live on its first socket, and dials the second one. */
function returning() {
  const machine = namedMachine();
  machine.tell("start", 0);
  greet(machine, 0, 1);
  machine.tell("frame", 0, 1, '{"live":0}');
  return machine;
}
function dropped(machine) {
  machine.tell("closed", 10_000, 1, 1006, "");
  return machine.tell("timer", 11_000);
}
const frames = (actions) => actions.filter(([action]) => action === "send").map(([, , frame]) => frame);

test("a room that the application joined is joined again if the server does not know it", () => {
  const machine = returning();
  machine.tell("move", 1, "call", 1_000, "join", "b");
  machine.tell("frame", 2, 1, '{"in":"b","at":3}');
  machine.tell("frame", 2, 1, '{"a":1,"d":null}');
  dropped(machine);
  greet(machine, 11_000, 2, { re: true });
  assert.deepEqual(frames(machine.tell("frame", 11_000, 2, '{"live":0}')), ['{"join":"b","q":2}']);
});

test("a resume that was put off is live after its outcome", () => {
  const machine = returning();
  dropped(machine);
  greet(machine, 11_000, 2, { re: "later" });
  machine.tell("frame", 11_000, 2, '{"live":0}');
  assert.equal(machine.status(), "catching-up");
  machine.tell("frame", 11_000, 2, '{"re":true}');
  machine.tell("frame", 11_000, 2, '{"live":0}');
  assert.equal(machine.status(), "live");
});

test("logs that go on elsewhere are lost if the cursor was removed on the way", () => {
  const machine = returning();
  dropped(machine);
  const actions = greet(machine, 11_000, 2, { at: { a: 9 } });
  assert.deepEqual(actions.filter(([action]) => action === "lost"), [["lost", "a", 9, "unknown"]]);
  assert.equal(JSON.parse(machine.cursor()).at.a, 9);
});

test("a leave that was carried out is done, although its answer was lost", () => {
  const machine = returning();
  machine.tell("move", 1, "call", 30_000, "leave", "a");
  dropped(machine);
  assert.deepEqual(frames(greet(machine, 11_000, 2, { re: true, at: {} })), ['{"leave":"a","q":2}']);
  const missing = '{"a":2,"x":{"code":"not_found","message":"the connection is not in this room"}}';
  assert.deepEqual(machine.tell("frame", 11_000, 2, missing), [["settle", "call", null, null]]);
  machine.tell("move", 12_000, "again", 30_000, "leave", "a");
  const [[, , error]] = machine.tell("frame", 12_000, 2, missing.replace("2", "3"));
  assert.equal(error.code, "not_found");
});

test("credentials that could not be had or were refused are asked for again", () => {
  const machine = namedMachine({ _hasAuth: true });
  machine.tell("start", 0);
  machine.tell("authorized", 0, 1, "t");
  greet(machine, 0, 1, { exp: 10 });
  machine.tell("frame", 0, 1, '{"live":0}');
  const asked = (now) => machine.tell("timer", now).filter(([action]) => action === "authorize");
  assert.deepEqual([asked(7_999), asked(8_000)], [[], [["authorize", 1, true]]]);
  assert.deepEqual([asked(17_999), asked(18_000)], [[], [["authorize", 1, true]]]); // the function has thrown
  machine.tell("renew", 18_000, 1, "t2");
  machine.tell("frame", 18_000, 1, '{"a":1,"x":{"code":"forbidden","message":"no"}}');
  assert.deepEqual(asked(28_000), [["authorize", 1, true]]);
  machine.tell("renew", 28_000, 1, "t3");
  machine.tell("frame", 28_000, 1, '{"a":2,"d":{}}'); // they do not expire
  assert.deepEqual([asked(38_000), asked(45_000)], [[], []]);
});
