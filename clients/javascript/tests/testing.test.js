// The server for tests of a page, driven by the real client.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { StabilizerError, connect } from "../src/client.js";
import { createServer } from "../src/testing.js";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A server and a client that is connected; `seen` is what its application got. */
async function connected(t, options = { rooms: ["chat"] }, more = {}) {
  const server = createServer(options), seen = [], statuses = [];
  const client = connect("ws://test/ws", { WebSocket: server.WebSocket, ...more });
  t.after(() => client.close());
  client.on("message", ({ log, data }) => seen.push([log, data]));
  client.on("lost", ({ log, code }) => seen.push([log, { lost: code }]));
  client.on("status", ({ to }) => statuses.push(to));
  await server.connected();
  return { server, client, seen, statuses };
}

test("a client is live when connected() returns, and gets what is published before the call returns", async (t) => {
  const { server, client, seen } = await connected(t);
  assert.deepEqual([client.status, client.id, client.rooms], ["live", "ann", ["chat"]]);
  assert.deepEqual(server.clients, [{ client: "ann", rooms: ["chat"] }]);
  assert.ok(server.publish("chat", { text: "hi" }) > 2 ** 32);
  server.publish("elsewhere", "not for ann");
  server.send("ann", "mail");
  server.send("bob", "not for ann");
  server.broadcast(new Uint8Array([0, 255]));
  const [[, bytes]] = seen.splice(2);
  assert.deepEqual([seen, [...new Uint8Array(bytes)]], [[["chat", { text: "hi" }], [0, "mail"]], [0, 255]]);
});

test("a client that has just closed is not connected: connected() waits for the next one", async (t) => {
  const saved = new Map(), storage = { getItem: (key) => saved.get(key) ?? null, setItem: (key, text) => saved.set(key, text) };
  const { server, client } = await connected(t, { rooms: ["chat"] }, { storage });
  client.close();
  assert.deepEqual(server.clients, []);
  server.publish("chat", "missed");
  const seen = [], next = connect("ws://test/ws", { WebSocket: server.WebSocket, storage });
  t.after(() => next.close());
  next.on("message", ({ data }) => seen.push(data));
  assert.deepEqual(await server.connected(), { client: "ann", rooms: ["chat"] });
  assert.deepEqual([next.status, seen, server.clients.length], ["live", ["missed"], 1]);
});

test("bytes to a room have its name", async (t) => {
  const { server, seen } = await connected(t);
  server.publish("chat", new Uint8Array([7]));
  assert.deepEqual([seen[0][0], [...new Uint8Array(seen[0][1])]], ["chat", [7]]);
});

test("what is published while a client is away is replayed, in order and once", async (t) => {
  const { server, seen, client } = await connected(t);
  server.publish("chat", 1);
  server.drop();
  assert.equal(client.status, "waiting");
  server.publish("chat", 2);
  server.send("ann", "volatile");
  server.send("ann", "stored", { store: true });
  server.publish("chat", 3);
  await server.connected();
  server.publish("chat", 4);
  assert.deepEqual(seen, [["chat", 1], ["chat", 2], [0, "stored"], ["chat", 3], ["chat", 4]]);
  assert.equal(server.handshakes.length, 2);
});

test("a room without history loses what is published while a client is away", async (t) => {
  const { server, seen } = await connected(t, { rooms: ["chat", "plain"], history: ["chat"] });
  assert.equal(server.publish("plain", 1), 0);
  server.drop();
  server.publish("plain", 2);
  await server.connected();
  assert.deepEqual(seen, [["plain", 1]]);
});

test("a log that lost its entries is named, now or when the client comes back", async (t) => {
  const { server, seen } = await connected(t, { rooms: ["chat", "other"] });
  server.lose("chat", "hole");
  server.drop();
  server.publish("chat", 1);
  server.publish("other", 2);
  server.lose("chat");
  server.publish("chat", 3);
  await server.connected();
  server.publish("chat", 4);
  assert.deepEqual(seen, [["chat", { lost: "hole" }], ["chat", { lost: "trimmed" }], ["other", 2], ["chat", 4]]);
});

test("the page reloads what was lost, and later messages wait for it", async (t) => {
  const { server, client } = await connected(t);
  const shown = [];
  client.room("chat", { reload: async () => shown.push("all") }).on(({ data }) => shown.push(data));
  server.lose("chat");
  server.publish("chat", 5);
  assert.deepEqual(shown, ["all"]);
  await turn();
  assert.deepEqual(shown, ["all", 5]);
});

test("a drain closes nothing before the next connection is ready", async (t) => {
  const { server, seen, statuses } = await connected(t);
  statuses.length = 0;
  server.go();
  server.publish("chat", 1);
  await turn();
  server.publish("chat", 2);
  assert.deepEqual(seen, [["chat", 1], ["chat", 2]]);
  assert.deepEqual([server.handshakes.length, server.clients.length], [2, 1]);
  assert.deepEqual(statuses.filter((status) => status !== "catching-up"), ["live"]);
});

test("a refusal keeps a client away, and its code decides about the next attempt", async (t) => {
  const { server, client } = await connected(t);
  server.refuse({ code: 1013, reason: '{"reconnect_in_ms":0}' });
  server.drop();
  while (server.handshakes.length < 3) await pause(1);
  assert.deepEqual(server.clients, []);
  server.accept();
  await server.connected();
  assert.equal(client.status, "live");
  server.refuse({ code: 4503 });
  server.drop();
  while (client.status !== "closed") await pause(1);
  assert.equal(client.error.closeCode, 4503);
});

test("a cursor that comes as first frame continues", async (t) => {
  const { server, seen, client, statuses } = await connected(t);
  server.refuse({ code: 1006 });
  server.drop();
  server.publish("chat", 1);
  while (!statuses.includes("connecting") || client.status !== "waiting") await pause(1);
  server.accept();
  await server.connected();
  assert.deepEqual(seen, [["chat", 1]]);
});

test("credentials and the URL decide who a client is", async (t) => {
  const identify = ({ url, token }) => token === "good" ? { id: url.searchParams.get("name"), rooms: ["own"], metadata: { x: 1 } } : { code: 4503 };
  const server = createServer({ identify });
  const options = { WebSocket: server.WebSocket };
  const bob = connect("ws://test/ws?name=bob", { ...options, auth: "good" }), eve = connect("ws://test/ws?name=eve", { ...options, auth: async () => "bad" });
  t.after(() => [bob, eve].forEach((client) => client.close()));
  while (eve.status !== "closed" || bob.status !== "live") await pause(1);
  assert.deepEqual([bob.id, bob.rooms], ["bob", ["own"]]);
});

test("messages of a client come to the server, and are confirmed when they were handled", async (t) => {
  const { server, client } = await connected(t, {
    onMessage: async ({ data }) => {
      if (data === "bad") throw new StabilizerError("spam", "no");
    },
  });
  await client.send("plain");
  await client.send(new Uint8Array([1, 2]), { confirm: true });
  await assert.rejects(client.send("bad", { confirm: true }), { code: "spam" });
  const bytes = server.received[1].data;
  server.received[1].data = [...new Uint8Array(bytes)];
  assert.deepEqual(server.received, [
    { client: "ann", data: "plain", isConfirmed: false }, { client: "ann", data: [1, 2], isConfirmed: true }, { client: "ann", data: "bad", isConfirmed: true },
  ]);
});

test("a message that was not handled before a drop is sent again", async (t) => {
  const { server, client } = await connected(t);
  const sent = client.send("once", { confirm: true });
  server.drop();
  await sent;
  await client.send("twice?", { confirm: true });
  assert.deepEqual(server.received.map(({ data }) => data), ["once", "twice?"]);
});

test("requests are answered in both directions", async (t) => {
  const { server, client } = await connected(t);
  let signal;
  server.onRequest("double", (data, context) => (signal = context.signal, 2 * data));
  server.onRequest("never", (_, context) => (signal = context.signal, new Promise(() => {})));
  server.onRequest("no", () => {
    throw new StabilizerError("conflict", "taken", { retry: true });
  });
  assert.equal(await client.request("double", 21), 42);
  await assert.rejects(client.request("no"), { code: "conflict", message: "taken", retry: true });
  await assert.rejects(client.request("what"), { code: "not_found" });
  await assert.rejects(client.request("never", null, { timeout: 5 }), { code: "timeout" });
  await turn();
  assert.ok(signal.aborted);
  client.onRequest("confirm", ({ text }) => text.length);
  assert.equal(await server.request("ann", "confirm", { text: "four" }), 4);
  await assert.rejects(server.request("ann", "unknown"), { code: "not_found" });
  await assert.rejects(server.request("bob", "confirm"), { code: "not-connected" });
  client.onRequest("slow", () => new Promise(() => {}));
  const asked = server.request("ann", "slow");
  server.drop();
  await assert.rejects(asked, { code: "interrupted" });
});

test("a client joins what it may, and stays in it", async (t) => {
  const { server, client, seen } = await connected(t, { mayJoin: (who, room) => who === "ann" && room.startsWith("open") });
  await client.room("open").join();
  await assert.rejects(client.room("shut").join(), { code: "forbidden" });
  server.join("ann", "given");
  assert.deepEqual(client.rooms, ["open", "given"]);
  server.drop();
  await server.connected();
  assert.deepEqual(client.rooms, ["open", "given"]);
  server.leave("ann", "given");
  await client.room("open").leave();
  server.publish("open", 1);
  assert.deepEqual([client.rooms, seen], [[], []]);
});

test("presence has the clients of the server and the members that the test sets", async (t) => {
  const { server, client } = await connected(t, { identify: () => ({ rooms: ["chat"], metadata: { name: "Ann" } }) });
  const seen = [];
  const stop = client.room("chat").presence((members) => seen.push(Object.fromEntries(members)));
  await turn();
  server.present("chat", { bob: null });
  server.present("chat", { bob: { name: "Bob" } });
  server.present("chat", {});
  const ann = { ann: { name: "Ann" } };
  assert.deepEqual(seen, [ann, { ...ann, bob: null }, { ...ann, bob: { name: "Bob" } }, ann]);
  server.drop();
  server.present("chat", { eve: null });
  await server.connected();
  await turn();
  assert.deepEqual(seen.at(-1), { ...ann, eve: null });
  stop();
  await turn();
  server.present("chat", {});
  assert.deepEqual(seen.at(-1), { ...ann, eve: null });
});

test("a page without a cursor begins in the mailbox where the last one has ended", async (t) => {
  const { server, client } = await connected(t);
  server.send("ann", 1, { store: true });
  await turn();
  client.close();
  await turn();
  server.send("ann", 2, { store: true });
  const next = connect("ws://test/ws", { WebSocket: server.WebSocket }), seen = [];
  next.on("message", ({ data }) => seen.push(data));
  await server.connected();
  assert.deepEqual(seen, [2]);
  next.close();
});

test("a script that no server could play is refused", async (t) => {
  const { server } = await connected(t);
  assert.throws(() => server.publish("chat", undefined), { code: "invalid" });
  assert.throws(() => server.publish("", 1), { code: "invalid" });
});
