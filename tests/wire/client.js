// A WebSocket client for Node (the ws package) and for browsers, driven from Python call by call.

const inNode = typeof module !== "undefined";
const Socket = inNode ? require("ws") : WebSocket;
const sockets = new Map();

const encode = (buffer) => {
  if (inNode) return Buffer.from(buffer).toString("base64");
  let binary = "";
  const bytes = new Uint8Array(buffer);
  for (let start = 0; start < bytes.length; start += 32768)
    binary += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(binary);
};
const decode = (text) =>
  inNode ? Buffer.from(text, "base64") : Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const calls = {
  open(id, url, protocols) {
    const socket = new Socket(url, protocols);
    const state = { socket, events: [], waiting: [] };
    const emit = (event) => (state.waiting.length ? state.waiting.shift()(event) : state.events.push(event));
    sockets.set(id, state);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => emit({ opened: socket.protocol, extensions: socket.extensions });
    socket.onmessage = ({ data }) => emit(typeof data === "string" ? { text: data } : { base64: encode(data) });
    socket.onclose = ({ code, reason }) => emit({ code, reason });
    socket.onerror = () => {};
    if (!inNode) return;
    socket.on("pong", (payload) => emit({ pong: payload.toString() }));
    socket.on("unexpected-response", (request, response) => {
      let body = "";
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => emit({ status: response.statusCode, body }));
    });
  },
  next(id) {
    const { events, waiting } = sockets.get(id);
    return events.length ? events.shift() : new Promise((resolve) => waiting.push(resolve));
  },
  send: (id, { text, base64 }) => sockets.get(id).socket.send(text ?? decode(base64)),
  fragments: (id, pieces) =>
    pieces.forEach((piece, index) => sockets.get(id).socket.send(piece, { fin: index === pieces.length - 1 })),
  ping: (id, payload) => sockets.get(id).socket.ping(payload),
  close: (id, code, reason) => sockets.get(id).socket.close(code, reason),
};

if (inNode) {
  const lines = require("readline").createInterface({ input: process.stdin });
  lines.on("line", async (line) => {
    const { number, name, args } = JSON.parse(line);
    const result = (await calls[name](...args)) ?? null;
    process.stdout.write(JSON.stringify({ number, result }) + "\n");
  });
} else window.calls = calls;
