// What broke other clients: one test for each rule that a client must survive.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { connect } from "../src/client.js";

/** A socket without a network. The test sends what the server would send. */
class Socket {
  constructor(url, items) {
    Object.assign(this, { url, items, readyState: 0, protocol: "stabilizer.v1", sent: [], closes: 0 });
    Socket.all.push(this);
    queueMicrotask(() => this.readyState || this.open());
  }
  open() {
    this.readyState = 1;
    this.onopen?.();
    this.feed({ hi: { v: 1, id: "ann", sid: "s", t: 1, ping: 25, pong: false, at: { chat: 0 }, box: 0, ...Socket.hi } }, { live: 0 });
  }
  feed(...frames) {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }
  send(frame) {
    this.sent.push(JSON.parse(frame));
  }
  close() {
    this.readyState = 3;
    this.closes++;
  }
  drop(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }
  /** The cursor that the handshake offers, or undefined. */
  get cursor() {
    const coded = this.items.find((item) => item.startsWith("stabilizer.v1.resume."))?.slice(21);
    return coded && JSON.parse(Buffer.from(coded, "base64url").toString());
  }
}

/** Of a test that waits for the client. */
const LIMIT = { timeout: 10_000 };
let client;
afterEach(() => client.close());

async function connected(options = {}, hi = {}) {
  Object.assign(Socket, { all: [], hi });
  client = connect("ws://localhost/ws", { WebSocket: Socket, ...options });
  await pause(1);
  return { socket: Socket.all[0], seen: [] };
}

test("a handler that closes the client is the last that is called", async () => {
  const { socket, seen } = await connected();
  client.room("chat").on(({ data }) => {
    seen.push(data);
    if (data === 2) client.close();
  });
  socket.feed([1, "chat", 1], [2, "chat", 2], [3, "chat", 3]);
  await pause(1);
  assert.deepEqual([seen, client.status], [[1, 2], "closed"]);
});

test("a handler that reconnects sees each message once, and none of the old socket afterwards", async () => {
  const { socket, seen } = await connected();
  client.room("chat").on(({ data }) => {
    seen.push(data);
    if (data === 2) client.reconnect();
  });
  Socket.hi = { re: true, at: { chat: 2 } };
  socket.feed([1, "chat", 1], [2, "chat", 2], [3, "chat", "of the old socket"]);
  await pause(1);
  const [, next] = Socket.all;
  next.feed([3, "chat", 3]);
  assert.deepEqual(seen, [1, 2, 3]);
});

test("the position moves before the handler runs: a reconnect inside it does not ask for that message", async () => {
  const { socket } = await connected();
  client.room("chat").on(() => client.reconnect());
  socket.feed([7, "chat", "once"]);
  await pause(1);
  assert.equal(Socket.all[1].cursor.at.chat, 7);
});

test("a handler that leaves its room is not called again, and the server is told", async () => {
  const { socket, seen } = await connected();
  const room = client.room("chat");
  let left;
  const end = room.on(({ data }) => {
    seen.push(data);
    end();
    left = room.leave();
  });
  socket.feed([1, "chat", 1], [2, "chat", 2]);
  assert.deepEqual([seen, socket.sent], [[1], [{ leave: "chat", q: 1 }]]);
  socket.feed({ out: "chat" }, { a: 1 });
  await left;
  assert.deepEqual(client.rooms, []);
});

test("a handler may join another room", async () => {
  const { socket, seen } = await connected();
  client.room("chat").on(async () => {
    await client.room("other").join();
    seen.push("joined");
  });
  socket.feed([1, "chat", 1]);
  const { q } = socket.sent.at(-1);
  socket.feed({ a: q, d: 0 });
  await pause(1);
  assert.deepEqual(seen, ["joined"]);
});

test("frames of a socket that was abandoned are ignored", async () => {
  const { socket, seen } = await connected();
  client.on("message", ({ data }) => seen.push(data));
  client.reconnect();
  await pause(1);
  socket.feed([9, "chat", "late"]);
  Socket.all[1].feed([1, "chat", "live"]);
  assert.deepEqual(seen, ["live"]);
});

test("a close event that comes twice leads to one attempt", async () => {
  const { socket } = await connected();
  socket.drop();
  socket.drop();
  client.reconnect();
  await pause(1);
  socket.drop();
  await pause(1);
  assert.deepEqual([Socket.all.length, client.status], [2, "live"]);
});

test("a close event that never comes keeps nobody waiting", async () => {
  const { socket } = await connected();
  client.reconnect();
  await pause(1);
  assert.deepEqual([socket.closes, Socket.all.length, client.status], [1, 2, "live"]);
});

test("a token that comes after close opens no socket", async () => {
  let give;
  await connected({ auth: () => new Promise((resolve) => (give = resolve)) });
  client.close();
  give("late");
  await pause(1);
  assert.deepEqual([Socket.all.length, client.status], [0, "closed"]);
});

test("reconnect after the end connects again", async () => {
  const { socket } = await connected();
  socket.drop(4500);
  assert.deepEqual([client.status, client.error.code], ["closed", "replaced"]);
  client.reconnect();
  await pause(1);
  assert.deepEqual([client.status, client.error], ["live", null]);
});

test("ids are numbers up to 2^53", async () => {
  const { socket, seen } = await connected();
  client.on("message", ({ id }) => seen.push(id));
  socket.feed([2 ** 53 - 1, "chat", "far"]);
  assert.deepEqual(seen, [Number.MAX_SAFE_INTEGER]);
});

test("a resume without a message is whole: nothing is told as lost", async () => {
  const { socket, seen } = await connected();
  client.on("lost", (lost) => seen.push(lost));
  Socket.hi = { re: true };
  socket.drop();
  client.reconnect();
  await pause(1);
  assert.deepEqual([seen, client.status], [[], "live"]);
});

test("a request that timed out is rejected, and its late answer changes nothing", LIMIT, async () => {
  const { socket } = await connected();
  await assert.rejects(client.request("slow", 1, { timeout: 5 }), { code: "timeout" });
  const { q } = socket.sent.find((frame) => frame.m === "slow");
  assert.deepEqual(socket.sent.at(-1), { c: q }); // the server may stop
  socket.feed({ a: q, d: "late" });
  assert.deepEqual([client.status, Socket.all.length], ["live", 1]);
});

/** A page whose events the test fires. `listening` has those that the client listens to. */
async function onPage(test) {
  const handlers = new Map();
  const target = (name) => ({
    addEventListener: (event, handler) => handlers.set(`${name} ${event}`, handler),
    removeEventListener: (event, handler) => handlers.get(`${name} ${event}`) === handler && handlers.delete(`${name} ${event}`),
  });
  const page = { ...target("window"), document: target("document") };
  Object.assign(globalThis, page);
  try {
    await test((event) => handlers.get(event)(), () => [...handlers.keys()].sort());
  } finally {
    for (const name of Object.keys(page)) delete globalThis[name];
  }
}
const isOver = () => Socket.all.map(({ readyState }) => readyState === 3);
const LISTENED = [
  "document resume", "document visibilitychange", "window offline", "window online", "window pagehide", "window pageshow",
];

test("networks that toggle lead to one connection", LIMIT, () => onPage(async (fire) => {
  await connected();
  for (let time = 0; time < 5; time++) {
    fire("window offline");
    assert.ok(isOver().every(Boolean));
    fire("window online");
    fire("window online");
  }
  while (client.status !== "live") await pause(1);
  assert.deepEqual(isOver(), [true, true, true, true, true, false]);
  client.reconnect();
  fire("window online");
  assert.deepEqual(isOver().slice(5), [true, true, false]); // no dial beside a dial
}));

test("a page that is hidden closes its socket and saves, and connects when it is shown", LIMIT, () => onPage(async (fire) => {
  const saved = [];
  const { socket } = await connected({ storage: { getItem: () => null, setItem: (_, text) => saved.push(text) } });
  socket.feed([5, "chat", "x"]);
  fire("window pagehide");
  assert.deepEqual([isOver(), JSON.parse(saved.at(-1))[0].at], [[true], { chat: 5 }]);
  await pause(1);
  assert.equal(Socket.all.length, 1);
  fire("window pageshow");
  while (client.status !== "live") await pause(1);
  assert.deepEqual([isOver(), Socket.all[1].cursor.at], [[true, false], { chat: 5 }]);
}));

for (const event of ["document visibilitychange", "document resume"]) {
  test(`the client looks at the time on ${event}, and tells the server what was handled`, LIMIT, () => onPage(async (fire) => {
    const { socket } = await connected();
    const now = Date.now;
    client.on("message", () => {});
    socket.feed([1, 0, "first"], [2, 0, "second"]);
    await pause(1);
    assert.deepEqual(socket.sent, [{ k: 1 }]); // the next mark is due in a second
    try {
      Date.now = () => now() + 60_000;
      fire(event);
    } finally {
      Date.now = now;
    }
    assert.deepEqual(socket.sent, [{ k: 1 }, { k: 2 }, { ping: 1 }]);
  }));
}

test("a client listens to the page from its beginning to its end, and again after reconnect", LIMIT, () => onPage(async (_, listening) => {
  await connected();
  assert.deepEqual(listening(), LISTENED);
  client.close();
  assert.deepEqual(listening(), []);
  client.reconnect();
  assert.deepEqual(listening(), LISTENED);
  client.close();
}));

test("a socket that cannot be written to is replaced", LIMIT, async () => {
  const { socket } = await connected();
  socket.send = () => {
    throw new Error("broken");
  };
  client.send("lost").catch(() => {});
  while (Socket.all.length < 2 || client.status !== "live") await pause(1);
  assert.equal(socket.closes, 1);
  await client.send("heard");
  assert.deepEqual(Socket.all[1].sent.at(-1), { m: "heard" });
});

test("a store that may not be read does not stop the client", async () => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  try {
    await connected({
      storage: {
        getItem() {
          throw new Error("denied");
        },
        setItem() {},
      },
    });
    assert.deepEqual([client.status, reported], ["live", ["denied"]]);
  } finally {
    delete globalThis.reportError;
  }
});

test("a wrong name of an event or an option is an error that has it", async () => {
  await connected();
  assert.throws(() => client.on("messages", () => {}), { code: "invalid", message: "no event messages" });
  const misnamed = { WebSocket: Socket, maxWating: 5 };
  assert.throws(() => connect("ws://localhost/ws", misnamed), { code: "invalid", message: "no option maxWating" });
});

test("a subscription that ends leaves the others, also those of the same function", async () => {
  const { socket, seen } = await connected();
  const room = client.room("chat"), handler = ({ data }) => seen.push(data);
  const [endFirst, endSecond] = [room.on(handler), room.on(handler)];
  socket.feed([1, "chat", "both"]);
  endFirst();
  endFirst();
  socket.feed([2, "chat", "one"]);
  endSecond();
  socket.feed([3, "chat", "none"]);
  assert.deepEqual(seen, ["both", "both", "one"]);
});

test("presence is watched until the last subscription ends, also of the same function", async () => {
  const { socket, seen } = await connected();
  const room = client.room("chat"), handler = (members) => seen.push([...members.keys()]);
  const [endFirst, endSecond] = [room.presence(handler), room.presence(handler)];
  endFirst();
  socket.feed({ p: "chat", v: 1, "=": [["bob", {}]] });
  assert.deepEqual(seen, [["bob"]]);
  endSecond();
  assert.deepEqual(socket.sent.at(-1), { p: "chat", v: null });
});

test("the last handler of a request answers, and the one before after its end", async () => {
  const { socket } = await connected();
  const answered = async (q) => {
    socket.feed({ q, m: "ask" });
    await pause(1);
    const { a, d, x } = socket.sent.at(-1);
    return [a, x?.code ?? d];
  };
  const endFirst = client.onRequest("ask", () => "first"), endSecond = client.onRequest("ask", () => "second");
  assert.deepEqual(await answered(1), [1, "second"]);
  endSecond();
  assert.deepEqual(await answered(2), [2, "first"]);
  const endThird = client.onRequest("ask", () => "third");
  endFirst();
  assert.deepEqual(await answered(3), [3, "third"]);
  endThird();
  assert.deepEqual(await answered(4), [4, "not_found"]);
});

test("an illegal name of a room or a request is in the error", async () => {
  await connected();
  await assert.rejects(client.room("").join(), { code: "invalid", message: /^no room "": 1 to 512 bytes/ });
  await assert.rejects(client.request(""), { code: "invalid", message: /^no request "": 1 to 128 characters/ });
});
