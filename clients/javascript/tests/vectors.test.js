// The examples in protocol/vectors, which the server and the Python client read as well.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { encode, isLog, message, read } from "../src/frames.js";
import { offer, react } from "../src/machine.js";
import { namedMachine } from "./machines.js";

const rows = (file) => JSON.parse(readFileSync(new URL(`../../../protocol/vectors/${file}`, import.meta.url), "utf8"));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
const content = (row) => row.hex !== undefined ? bytes(row.hex).buffer : row.text ?? row.parts.map(([text, times]) => text.repeat(times)).join("");
const plain = (frame) => typeof frame === "string" ? frame : { hex: Buffer.from(frame).toString("hex") };

const failure = ({ code, message, retry }) => ({ code, message, retry: retry === true });
const DESCRIBERS = {
  "[": ([id, log, data, key = ""]) => !isLog(log)
    ? { kind: "unknown" }
    : {
      kind: "message", log, id, ...data instanceof ArrayBuffer ? { bytes: Buffer.from(data).toString("hex") } : { data },
      ...key && { key },
    },
  hi: ({ hi }) => ({
    kind: "hi", v: hi.v, client: hi.id, session: hi.sid, t: hi.t, ping: hi.ping, pong: hi.pong === true, expires: hi.exp ?? null,
    outcome: hi.re ?? null, handled: hi.n ?? null, lost: hi.lost ?? [], rooms: hi.at, everybody: hi.all ?? null, mailbox: hi.box ?? null,
  }),
  live: ({ live }) => ({ kind: "live", replayed: live }),
  lost: ({ lost }) => ({ kind: "lost", lost: lost.filter(([log]) => isLog(log)).map((row) => row.slice(0, 3)) }),
  re: ({ re }) => ({ kind: "resumed", outcome: re }),
  in: ({ in: room, at = null }) => ({ kind: "joined", room, at }),
  out: ({ out: room }) => ({ kind: "left", room }),
  at: ({ at, all = null, box = null }) => ({ kind: "positions", rooms: at, everybody: all, mailbox: box }),
  t: ({ t }) => ({ kind: "time", t }),
  "": () => ({ kind: "alive" }),
  ping: () => ({ kind: "probe" }),
  q: ({ q, m, d = null }) => ({ kind: "request", number: q, name: m, data: d }),
  a: ({ a, d = null, x }) => x ? { kind: "error_answer", number: a, ...failure(x) } : { kind: "answer", number: a, data: d },
  c: ({ c }) => ({ kind: "cancel", number: c }),
  n: ({ n, x }) => ({ kind: "handled", number: n, error: x ? failure(x) : null }),
  p: ({ p: room, v, from, more, ...rest }) => rest["="]
    ? { kind: "presence_snapshot", room, version: v, members: rest["="].map((row) => row.slice(0, 2)), more: !!more }
    : {
      kind: "presence_diff", room, version: v, arrived: (rest["+"] ?? []).map((row) => row.slice(0, 2)), departed: rest["-"] ?? [],
      ...from !== undefined && from !== v - 1 && { after: from },
    },
  go: ({ go }) => ({ kind: "go", in: go.in }),
};
const described = ([kind, value]) => Object.hasOwn(DESCRIBERS, kind) ? DESCRIBERS[kind](value) : { kind: "unknown" };

for (const row of rows("server_frames.json")) {
  test(`frame of the server is read: ${row.name}`, () => {
    const { outcome, ...expected } = row.frame;
    if (expected.kind !== "joined" && outcome !== undefined) expected.outcome = outcome;
    const found = described(read(content(row)));
    for (const key of Object.keys(found)) if (!(key in expected) && key !== "kind") assert.fail(`${key} is not expected: ${JSON.stringify(row.frame)}`);
    assert.deepEqual(JSON.parse(JSON.stringify(found)), JSON.parse(JSON.stringify(expected)));
  });
}
for (const row of rows("server_malformed.json")) {
  test(`malformed frame of the server is refused: ${row.name}`, () => assert.throws(() => read(content(row))));
}
for (const row of rows("closes.json")) {
  test(`close code has its reaction: ${row.name}`, () => {
    const { do: what, after } = react(row.code, row.reason, row.own_sessions);
    assert.deepEqual([what, after ?? undefined], [row.do, row.after_ms]);
  });
}
for (const row of rows("offers.json")) {
  if (row.only_read || row.error || !row.offer || row.items[0] !== "stabilizer.v1") continue;
  test(`offer is written: ${row.name}`, () => {
    const { cursor, later, token } = row.offer;
    assert.deepEqual(offer(later ? "{}" : cursor ?? "", token, later)[0], row.items);
  });
}
for (const row of rows("cursors.json")) {
  if (row.only_read || row.error) continue;
  test(`cursor is written: ${row.name}`, () => {
    const { session, t, rooms, everybody, mailbox } = row.cursor;
    const hi = { v: 1, id: "ann", sid: session, t, ping: 25, pong: false, at: rooms, all: everybody, box: mailbox };
    const machine = namedMachine();
    machine.tell("start", 0);
    machine.tell("opened", 0, 1, "stabilizer.v1");
    machine.tell("frame", 0, 1, JSON.stringify({ hi }));
    assert.equal(machine.cursor(), content(row));
  });
}
const withMessage = rows("client_frames.json").filter(({ frame, only_read }) => frame.kind === "message" && !only_read);
for (const row of withMessage) {
  test(`message is written: ${row.name}`, () => {
    const { number, ...frame } = row.frame;
    const written = message(encode("bytes" in frame ? bytes(frame.bytes) : frame.data, 1e6), number || undefined);
    assert.deepEqual(plain(written), plain(row.hex === undefined ? row.text : bytes(row.hex)));
  });
}
for (const row of rows("client_malformed.json")) {
  let data;
  try {
    if (["depth", "size"].includes(row.error) || row.name.includes("surrogate")) data = JSON.parse(content(row)).m;
  } catch {
    // no application can ask for it
  }
  if (data === undefined) continue;
  test(`data that the server would refuse is not sent: ${row.name}`, () => {
    assert.throws(() => encode(data, 1_000_000), { code: "invalid" });
  });
}
test("names that the server would refuse are not sent", () => {
  const move = (room) => namedMachine().tell("move", 0, "call", 1, "join", room);
  for (const room of ["", "x".repeat(513), "ü".repeat(257), "a\nb", "\u009f", "\ud83e", 5, undefined]) {
    assert.throws(() => move(room), { code: "invalid" });
  }
  const request = (name) => namedMachine().tell("request", 0, "call", 1, name, null);
  for (const name of ["", "x".repeat(129), "\udd8a", null]) assert.throws(() => request(name), { code: "invalid" });
  assert.throws(() => namedMachine().tell("request", 0, "call", 1, "x", new Uint8Array(1)), { code: "invalid" });
  move("日本");
  request("🦊".repeat(128));
});
test("data without JSON is not sent", () => {
  for (const data of [undefined, () => 1, Symbol("x")]) assert.throws(() => encode(data, 100), { code: "invalid" });
});
test("texts with backslashes are no halves of surrogate pairs", () => {
  for (const text of ["\\ud83e", "\\\\ud83e", "\u0000", "🦊", "\\u"]) assert.equal(encode(text, 100), JSON.stringify(text));
  for (const text of ["\ud83e", "\\\ud83e", "x\udd8a", "\u0001\ud83e"]) assert.throws(() => encode(text, 100), { code: "invalid" });
});
test("a cursor that makes the header too long is sent later", () => {
  const longest = Math.floor((4096 - "stabilizer.v1, stabilizer.v1.resume.".length) * 3 / 4);
  const [items, isLater] = offer("x".repeat(longest), null, false);
  assert.deepEqual([items.join(", ").length, isLater], [4096, false]);
  assert.deepEqual(offer("x".repeat(longest + 1), null, false), [["stabilizer.v1", "stabilizer.v1.resume.later"], true]);
  assert.throws(() => offer("", "x".repeat(4096), false), /longer than 4096/);
});
