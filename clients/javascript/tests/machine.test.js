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

/** What two kinds of chance lead to. */
const withChance = (delay) => [0.25, 0.75].map((chance) => delay(namedMachine({ _random: () => chance })));
/** Milliseconds until the next attempt, as the application is told. */
const retryIn = (actions) => actions.filter(([action]) => action === "status").at(-1)[1].retryIn;
const dials = (actions) => actions.filter(([action]) => action === "dial").map(([, generation]) => generation);
/** The code of the error of a call that cannot even begin, or undefined. */
const refusal = (call) => {
  try {
    call();
  } catch (error) {
    return error.code;
  }
};

test("the delay after the drop of a connection that was live is random, up to a second", () => {
  const delays = withChance((machine) => {
    machine.tell("start", 0);
    greet(machine, 0, 1);
    machine.tell("frame", 0, 1, '{"live":0}');
    return retryIn(machine.tell("closed", 5_000, 1, 1006, ""));
  });
  assert.deepEqual(delays, [250, 750]);
});

test("the delays after failed attempts are random, and their limits double up to 20 s", () => {
  const delays = withChance((machine) => {
    let now = 0;
    machine.tell("start", now);
    return [1, 2, 3, 4, 5, 6, 7, 8].map((generation) => {
      const delay = retryIn(machine.tell("closed", now, generation, 1006, ""));
      machine.tell("timer", now += delay);
      return delay;
    });
  });
  const limits = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000];
  assert.deepEqual(delays, [0.25, 0.75].map((chance) => limits.map((limit) => chance * limit)));
});

test("failures in a row end with a connection that is live for 5 s, and with no shorter one", () => {
  const delays = [4_999, 5_000].map((time) => {
    const machine = namedMachine();
    machine.tell("start", 0);
    for (const generation of [1, 2, 3]) {
      machine.tell("closed", 0, generation, 1006, "");
      machine.tell("timer", 0 + machine.timerAt());
    }
    greet(machine, 9_000, 4);
    machine.tell("frame", 9_000, 4, '{"live":0}');
    const first = retryIn(machine.tell("closed", 9_000 + time, 4, 1006, ""));
    machine.tell("timer", machine.timerAt());
    return [first, retryIn(machine.tell("closed", machine.timerAt() - 1, 5, 1006, ""))];
  });
  assert.deepEqual(delays, [[2_000, 4_000], [500, 250]]);
});

test("a server that is silent has 5 s for an answer to a ping, and 2 s after a sleep", () => {
  const patience = (event, now) => {
    const machine = returning();
    assert.deepEqual(frames(machine.tell(event, now)), ['{"ping":1}']);
    return machine.timerAt() - now;
  };
  assert.deepEqual([patience("timer", 35_000), patience("timer", 500_000), patience("wake", 35_000)], [5_000, 2_000, 2_000]);
  const machine = returning();
  machine.tell("timer", 500_000);
  assert.equal(machine.tell("timer", 501_999).length, 0);
  machine.tell("timer", 502_000);
  assert.equal(machine.status(), "waiting");
});

test("a second event that the network is back changes nothing", () => {
  const machine = namedMachine();
  machine.tell("start", 0);
  machine.tell("offline", 1);
  assert.deepEqual([machine.status(), dials(machine.tell("online", 2))], ["offline", [2]]);
  assert.deepEqual(machine.tell("online", 3), []);
  machine.tell("closed", 4, 2, 1006, "");
  assert.deepEqual([machine.tell("online", 5), machine.status()], [[], "waiting"]);
});

test("the network that is back ends the attempt that is under way before it dials", () => {
  const machine = namedMachine();
  machine.tell("start", 0);
  assert.deepEqual(machine.tell("online", 1).map(([action, generation]) => [action, generation]), [["close", 1], ["dial", 2]]);
});

test("credentials are refused once in a row, then the client ends", () => {
  const machine = namedMachine({ _hasAuth: true });
  const refuse = (now, generation) => {
    machine.tell("authorized", now, generation, "t");
    return machine.tell("closed", now, generation, 4401, "");
  };
  machine.tell("start", 0);
  refuse(0, 1);
  assert.equal(machine.status(), "waiting");
  machine.tell("timer", 1_000);
  machine.tell("authorized", 1_000, 2, "t");
  greet(machine, 1_000, 2);
  machine.tell("closed", 1_000, 2, 4401, ""); // the first one after a greeting
  assert.equal(machine.status(), "waiting");
  machine.tell("timer", 2_000);
  const [[, change]] = refuse(2_000, 3).filter(([action]) => action === "status");
  assert.deepEqual([change.to, change.closeCode, change.error.code, machine.timerAt()], ["closed", 4401, "unauthorized", Infinity]);
});

test("a token that cannot be renewed is refused once, and not sent again before it expires", () => {
  const machine = namedMachine({ _hasAuth: true, _canRenew: false });
  machine.tell("start", 0);
  machine.tell("authorized", 0, 1, "t");
  greet(machine, 0, 1, { exp: 10, ping: 3_600 });
  machine.tell("frame", 0, 1, '{"live":0}');
  assert.deepEqual(machine.tell("timer", 10_000), []);
  machine.tell("closed", 10_000, 1, 4401, "");
  assert.equal(machine.machine._error().code, "unauthorized");
});

test("64 requests are in flight, the next ones wait for answers, and 1,024 may wait", () => {
  const machine = returning();
  const ask = (n) => frames(machine.tell("request", 1, `call ${n}`, 9_000, "read", n)).length;
  assert.deepEqual(Array.from({ length: 66 }, (_, n) => ask(n)), [...Array(64).fill(1), 0, 0]);
  assert.deepEqual(frames(machine.tell("frame", 2, 1, '{"a":1,"d":null}')), ['{"q":65,"m":"read","d":64}']);
  for (let n = 1; n < 1_024; n++) assert.equal(ask(n), 0);
  assert.equal(refusal(() => ask(0)), "limit");
  machine.tell("cancel", 3, "call 5");
  assert.equal(refusal(() => ask(0)), undefined);
});

test("the server has 64 requests in flight, and the next one is refused", () => {
  const machine = returning();
  const ask = (q) => machine.tell("frame", 1, 1, JSON.stringify({ q, m: "ask" }));
  for (let q = 1; q <= 64; q++) assert.deepEqual(ask(q), [["asked", 1, q, "ask", null]]);
  const [[, , refused], ...others] = ask(65);
  assert.deepEqual([JSON.parse(refused).x.code, others], ["limit", []]);
  machine.tell("answer", 2, 1, 7, null, "done");
  assert.deepEqual(ask(66), [["asked", 1, 66, "ask", null]]);
});

test("unconfirmed messages have a bound for their number and one for their bytes", () => {
  const machine = namedMachine({ maxUnconfirmed: 3, maxUnconfirmedBytes: 14 });
  const confirm = (key, data) => refusal(() => machine.tell("confirm", 0, key, 9_000, data));
  machine.tell("start", 0);
  assert.deepEqual([confirm("a", "12"), confirm("b", "1234"), confirm("c", "1234"), confirm("c", 1)], [undefined, undefined, "limit", undefined]);
  assert.equal(confirm("d", 1), "limit"); // the bytes would fit
  greet(machine, 0, 1);
  assert.equal(confirm("d", 1), "limit"); // sent, and not confirmed
  machine.tell("frame", 1, 1, '{"n":1}');
  assert.equal(confirm("d", 1), undefined);
});

test("a request that timed out is withdrawn, and a late answer settles nothing", () => {
  const machine = returning();
  machine.tell("request", 0, "call", 5, "slow", 1);
  const [cancel, [, key, error], ...others] = machine.tell("timer", 5);
  assert.deepEqual([cancel, key, error.code, others], [["send", 1, '{"c":1}'], "call", "timeout", []]);
  assert.deepEqual([machine.tell("frame", 6, 1, '{"a":1,"d":"late"}'), machine.timerAt()], [[], 35_006]);
});
