// socket.io with its Redis adapter, as its documentation says; npm packages are found from BENCHMARKS_NODE_MODULES.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(process.env.BENCHMARKS_NODE_MODULES + "/");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const pubClient = createClient({ url: process.env.BENCHMARKS_REDIS_URL });
const subClient = pubClient.duplicate();
await Promise.all([pubClient.connect(), subClient.connect()]);

const httpServer = createServer(onRequest);
const io = new Server(httpServer, {
  adapter: createAdapter(pubClient, subClient),
  transports: ["websocket"],
  perMessageDeflate: process.env.BENCHMARKS_VARIANT === "compressed" && { threshold: 1024 },
});

io.on("connection", (socket) => {
  if (socket.handshake.query.client_id) socket.join(socket.handshake.query.client_id);
});

function mark(sequence) {
  return `#${String(sequence).padStart(8, "0")}@${String(process.hrtime.bigint()).padStart(19, "0")}#`;
}

// The records of messages.py.
function record(index) {
  const noise = (index * 2654435761) % 2 ** 32;
  const digits = (number, width) => String(number).padStart(width, "0");
  return {
    id: noise,
    symbol: `SYM${digits(noise % 977, 3)}`,
    price: (noise % 1000000) / 100,
    change: (noise % 2003) / 1000 - 1,
    volume: noise % 99991,
    at: `2025-06-${digits(1 + (noise % 28), 2)}T${digits(noise % 24, 2)}:${digits(noise % 60, 2)}:00Z`,
  };
}

const cache = new Map();

function records(count, variant) {
  const key = `${count} ${variant}`;
  if (!cache.has(key)) cache.set(key, Array.from({ length: count }, (_, index) => record(variant * count + index)));
  return cache.get(key);
}

function message(order, sequence) {
  const count = Math.ceil((order.size - 45) / 116);
  if (order.is_json) return { mark: mark(sequence), records: records(count, sequence % 64) };
  return mark(sequence).padEnd(order.size, "x");
}

function* jobs(order) {
  for (let sequence = order.first; sequence < order.first + order.count; sequence++) {
    if (!order.targets.length) yield () => io.emit("message", message(order, sequence));
    for (const target of order.targets) yield () => io.to(target).emit("message", message(order, sequence));
  }
}

// emit() returns nothing to wait for, so a call has returned when the PUBLISH it made has been answered.
let published = Promise.resolve();
const publish = pubClient.publish.bind(pubClient);
pubClient.publish = (...given) => (published = publish(...given));

function send(job) {
  job();
  return published;
}

async function work(todo) {
  for (const job of todo) await send(job);
}

async function run(order) {
  const todo = jobs(order);
  if (!order.rate) return Promise.all(Array.from({ length: order.in_flight }, () => work(todo)));
  let due = performance.now();
  for (const job of todo) {
    await sleep(Math.max(0, due - performance.now()));
    send(job);
    due += 1000 / order.rate;
  }
  return published;
}

async function onRequest(request, response) {
  if (!request.url.startsWith("/control")) return;
  let body = "";
  for await (const part of request) body += part;
  const started = performance.now();
  if (body) await run({ count: 0, in_flight: 1, first: 0, size: 128, rate: 0, targets: [], ...JSON.parse(body) });
  response.end(JSON.stringify({ seconds: (performance.now() - started) / 1000 }));
}

httpServer.listen(Number(process.env.BENCHMARKS_PORT), "127.0.0.1");
