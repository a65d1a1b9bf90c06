// Servers in Node. POST /control sends one message. BENCHMARKS_VARIANT chooses the server:
// plain: a broadcaster that forwards what comes from Redis.
// phoenix: the same, in the protocol of Phoenix channels. A stand-in, written for this measurement.
// socketio: socket.io with connection state recovery, and the adapter that its documentation names for it.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.BENCHMARKS_NODE_MODULES}/`);
const { createClient } = require("redis");
const variant = process.env.BENCHMARKS_VARIANT, channel = process.env.BENCHMARKS_NAMESPACE;

const redis = createClient({ url: process.env.BENCHMARKS_REDIS_URL });
await redis.connect();
const httpServer = createServer(onRequest);
const { send, stop } = await (variant === "socketio" ? serveSocketIo() : serveFrames());

async function serveSocketIo() {
  const { Server } = require("socket.io");
  const { createAdapter } = require("@socket.io/redis-streams-adapter");
  const adapter = createAdapter(redis, { streamName: channel });
  const io = new Server(httpServer, { adapter, transports: ["websocket"], connectionStateRecovery: {} });
  io.on("connection", (socket) => socket.recovered || socket.join("room"));
  return { send: async (n) => void io.to("room").emit("message", n), stop: () => io.close() };
}

async function serveFrames() {
  const { WebSocketServer } = require("ws");
  const wss = new WebSocketServer({ server: httpServer });
  const isPhoenix = variant === "phoenix";
  const frame = (n) => (isPhoenix ? JSON.stringify([null, null, "room", "message", { n }]) : String(n));
  if (isPhoenix) wss.on("connection", (socket) => socket.on("message", (data) => answerPhoenix(socket, JSON.parse(data))));
  const subscriber = redis.duplicate();
  await subscriber.connect();
  await subscriber.subscribe(channel, (n) => {
    for (const socket of wss.clients) if (!isPhoenix || socket.hasJoined) socket.send(frame(Number(n)));
  });
  const stop = () => wss.clients.forEach((socket) => socket.close(1001));
  return { send: (n) => redis.publish(channel, String(n)), stop };
}

function answerPhoenix(socket, [joinRef, ref, topic, event]) {
  socket.hasJoined ||= event === "phx_join";
  socket.send(JSON.stringify([joinRef, ref, topic, "phx_reply", { status: "ok", response: {} }]));
}

async function onRequest(request, response) {
  if (request.url !== "/control") return;
  let body = "";
  for await (const part of request) body += part;
  if (body) await send(JSON.parse(body).n);
  response.end("{}");
}

process.on("SIGTERM", () => {
  httpServer.close();
  stop();
  setTimeout(() => process.exit(), 1000); // time for what the adapter stores
});
httpServer.listen(Number(process.env.BENCHMARKS_PORT), "127.0.0.1");
