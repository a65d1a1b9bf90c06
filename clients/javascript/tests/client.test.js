// The shell of the client, with a socket that the test drives.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { connect } from "../src/client.js";

/** A socket whose server says hi, and answers requests with null. */
class Socket {
  constructor(url, items) {
    Object.assign(this, { url, items, readyState: 0, protocol: "stabilizer.v1", sent: [] });
    Socket.all.push(this);
    queueMicrotask(() => {
      this.readyState = 1;
      this.onopen?.();
      this.feed({ hi: { v: 1, id: "ann", sid: `s${Socket.all.length}`, t: 1, ping: 25, pong: false, at: { others: 1, chat: 1 }, box: 0, ...Socket.hi } });
      this.feed({ live: 0 });
    });
  }
  feed(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
  send(frame) {
    this.sent.push(frame);
    const { q, m } = JSON.parse(frame);
    if (q && m !== "never") queueMicrotask(() => this.feed({ a: q, d: null }));
  }
  close() {
    this.readyState = 3;
  }
}

async function connected(options = {}, hi = {}) {
  Object.assign(Socket, { all: [], hi });
  const client = connect("ws://localhost/ws", { WebSocket: Socket, ...options });
  await pause(1);
  return { client, socket: Socket.all[0] };
}
const marks = ({ sent }) => sent.filter((frame) => frame.startsWith('{"k"'));

test("the mailbox is marked up to the first message whose handler has not returned", async () => {
  const { client, socket } = await connected();
  const ends = {};
  client.on("message", ({ id }) => new Promise((resolve) => (ends[id] = resolve)));
  for (const id of [10, 11, 12]) socket.feed([id, 0, "mail"]);
  ends[11]();
  await pause(1);
  assert.deepEqual(marks(socket), []);
  ends[10]();
  await pause(1);
  client.close();
  assert.deepEqual(marks(socket), ['{"k":10}', '{"k":11}']);
});

test("a socket that could not be opened is followed by another one, also without a close event", async () => {
  class Refused {
    readyState = 0;
    constructor() {
      queueMicrotask(() => this.onerror?.({}));
    }
    close() {}
  }
  const client = connect("ws://localhost/ws", { WebSocket: Refused });
  const statuses = [];
  client.on("status", ({ to, closeCode }) => statuses.push([to, closeCode]));
  await pause(1);
  assert.deepEqual(statuses, [["connecting", 0], ["waiting", 1006]]);
  client.close();
});

test("a socket has a handler of errors also when it was abandoned: ws would throw them", async () => {
  const { client, socket } = await connected();
  client.reconnect();
  assert.equal(socket.readyState, 3);
  socket.onerror();
  client.close();
});

test("no name of a room is special", async () => {
  const { client, socket } = await connected();
  const seen = [];
  client.room("others").on(({ data }) => seen.push(data));
  socket.feed([5, "chat", "no"]);
  socket.feed([6, "others", "yes"]);
  assert.deepEqual(seen, ["yes"]);
  client.close();
});

test("messages wait while the application loads what was lost", async () => {
  const { client, socket } = await connected();
  const seen = [];
  let loaded;
  client.room("chat", { reload: ({ top }) => new Promise((resolve) => (loaded = () => resolve(seen.push(`to ${top}`)))) })
    .on(({ data }) => seen.push(data));
  socket.feed({ lost: [["chat", 7, "trimmed"]] });
  socket.feed([8, "chat", "eight"]);
  await pause(1);
  assert.deepEqual(seen, []);
  loaded();
  await pause(1);
  assert.deepEqual(seen, ["to 7", "eight"]);
  client.close();
});

test("if too many messages wait, they are dropped and loaded", async () => {
  const { client, socket } = await connected({ maxWaiting: 2 });
  const seen = [], loads = [];
  let loaded;
  client.room("chat", { reload: ({ top }) => new Promise((resolve) => { loads.push(top); loaded = resolve; }) }).on(({ data }) => seen.push(data));
  socket.feed({ lost: [["chat", 7, "trimmed"]] });
  for (const id of [8, 9, 10]) socket.feed([id, "chat", id]);
  loaded();
  await pause(1);
  socket.feed([11, "chat", 11]);
  loaded();
  await pause(1);
  assert.deepEqual([loads, seen], [[7, 10], [11]]);
  client.close();
});

test("a handler that throws is reported, and the next one is called", async () => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  const { client, socket } = await connected();
  const seen = [];
  client.on("message", () => {
    throw new Error("no");
  });
  client.on("message", ({ data }) => seen.push(data));
  socket.feed([5, "chat", "a"]);
  await pause(1);
  assert.deepEqual([seen, reported], [["a"], ["no"]]);
  delete globalThis.reportError;
  client.close();
});

test("a call has one outcome", async () => {
  const { client, socket } = await connected();
  assert.equal(await client.request("echo"), null);
  const controller = new AbortController();
  const asked = client.request("never", 1, { signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(asked, /enough/);
  assert.equal(socket.sent.at(-1), '{"c":2}');
  await assert.rejects(client.request("never", 1, { timeout: 5 }), { code: "timeout" });
  await assert.rejects(client.request("", 1), { code: "invalid" });
  await assert.rejects(client.send(() => 1), { code: "invalid" });
  const last = client.request("never");
  client.close();
  await assert.rejects(last, { code: "interrupted" });
  await assert.rejects(client.request("echo"), { code: "closed" });
});

test("a client that is closed at once never connects", async () => {
  Socket.all = [];
  const client = connect("ws://localhost/ws", { WebSocket: Socket });
  client.close();
  await pause(1);
  assert.deepEqual([client.status, Socket.all.length], ["closed", 0]);
  client.close();
});

test("a client that was closed connects again if it is asked to", async () => {
  const { client } = await connected();
  client.close();
  assert.equal(client.status, "closed");
  client.reconnect();
  await pause(1);
  assert.equal(client.status, "live");
  client.close();
});

test("what a later release sends changes nothing", async () => {
  const stored = new Map();
  const storage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
  const { client, socket } = await connected({ storage });
  socket.feed({ lost: [[2, 5, "new"], ["chat", 6, "new"]] });
  socket.feed([5, 2, "x", { new: true }]);
  socket.feed({ constructor: 1 });
  assert.equal(client.status, "live");
  client.close();
  const [[cursor]] = [...stored.values()].map((text) => JSON.parse(text));
  assert.deepEqual(cursor.at, { others: 1, chat: 6 });
});

test("a server with another version ends the client with its name", async () => {
  const { client } = await connected({}, { v: 2, at: "elsewhere" });
  assert.deepEqual([client.status, client.error.code], ["closed", "incompatible"]);
  client.close();
});

test("a page that was stored goes on where it was", async () => {
  const stored = new Map();
  const storage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
  const { client, socket } = await connected({ storage });
  socket.feed([9, "chat", "x"]);
  client.close();
  const later = await connected({ storage });
  const [, item] = Socket.all[0].items;
  const cursor = JSON.parse(Buffer.from(item.replace("stabilizer.v1.resume.", ""), "base64url"));
  assert.deepEqual(cursor, { s: "s1", t: 1, at: { others: 1, chat: 9 }, box: 0 });
  later.client.close();
});

test("a timeout that is no number is refused, since the client could not come back without timers", async () => {
  const { client, socket } = await connected();
  for (const timeout of [NaN, "10s", "5000", null]) {
    await assert.rejects(client.send("x", { confirm: true, timeout }), { code: "invalid", message: `timeout=${timeout} is no number` });
  }
  socket.onclose({ code: 1012, reason: '{"reconnect_in_ms":0}' });
  await pause(20);
  assert.equal(client.status, "live");
  client.close();
});

for (const text of ["[]", '[{"s":"s0","t":1,"at":{}}]', '[{"s":"s0","t":1,"at":{"chat":1}},null]', '[{"s":"s0","t":1,"at":{"chat":1}},{}]']) {
  test(`a damaged store is no store: ${text}`, async () => {
    const { client, socket } = await connected({ storage: { getItem: () => text, setItem() {} } });
    const seen = [];
    client.on("message", ({ data }) => seen.push(data));
    socket.feed([5, "chat", "x", "u1"]);
    assert.deepEqual([client.status, socket.items, seen], ["live", ["stabilizer.v1"], ["x"]]);
    client.close();
  });
}

test("a page that is left while it reloads a room is followed by one that is told of the loss", async () => {
  const stored = new Map();
  const storage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
  const { client, socket } = await connected({ storage });
  const position = () => JSON.parse([...stored.values()][0])[0].at.chat;
  let loaded;
  client.room("chat", { reload: () => new Promise((resolve) => (loaded = resolve)) });
  socket.feed([5, "chat", "five"]);
  await pause(250);
  socket.feed({ lost: [["chat", 7, "trimmed"]] });
  socket.feed([8, "chat", "eight"]);
  await pause(250);
  assert.equal(position(), 5);
  loaded();
  await pause(1);
  assert.equal(position(), 8);
  client.close();
});

test("a signal that was aborted stops each call", async () => {
  const { client, socket } = await connected();
  const signal = AbortSignal.abort();
  for (const call of [client.send("x", { signal }), client.send("x", { confirm: true, signal }), client.request("echo", 1, { signal })]) {
    await assert.rejects(call, { name: "AbortError" });
  }
  assert.deepEqual(socket.sent, []);
  client.close();
});

test("data that JSON refuses is invalid", async () => {
  const { client } = await connected(), circle = {};
  circle.circle = circle;
  for (const data of [1n, circle]) {
    await assert.rejects(client.send(data), { name: "StabilizerError", code: "invalid" });
    await assert.rejects(client.request("echo", data), { name: "StabilizerError", code: "invalid" });
  }
  client.close();
});
