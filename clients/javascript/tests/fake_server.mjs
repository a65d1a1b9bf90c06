// Runs the server for tests of a page for another process: one JSON call a line in, one line of frames out.
import { createInterface } from "node:readline";
import { createServer } from "../src/testing.js";
import { StabilizerError } from "../src/errors.js";

const server = createServer({
  identify: ({ url }) => ({ id: url.searchParams.get("name"), rooms: ["chat", "plain"] }),
  history: ["chat", "open"],
  mayJoin: (_, room) => room.startsWith("open"),
  onMessage: ({ data }) => {
    if (data === "bad") throw new StabilizerError("failed", "no");
  },
});
server.onRequest("double", (number) => 2 * number);
const sockets = {};
let frames = [];
const plain = (data) => typeof data === "string" ? data : { hex: Buffer.from(data).toString("hex") };
const calls = {
  open(name, items) {
    const socket = sockets[name] = new server.WebSocket(`ws://test/ws?name=${name}`, items);
    socket.onmessage = ({ data }) => frames.push([name, plain(data)]);
    socket.onclose = ({ code }) => frames.push([name, { close: code }]);
  },
  send: (name, frame) => sockets[name].send(frame.hex === undefined ? frame : Buffer.from(frame.hex, "hex")),
  hang_up(name) {
    sockets[name].onclose = null;
    sockets[name].close(1000);
  },
  publish: (room, data) => void server.publish(room, revive(data)),
  send_to: (client, data, store) => void server.send(client, revive(data), { store }),
  broadcast: (data, store) => void server.broadcast(revive(data), { store }),
  forget: (room) => server.lose(room, "reset"),
  put: (client, room) => server.join(client, room),
  take_out: (client, room) => server.leave(client, room),
  ask: (client, name, data) => void server.request(client, name, data).then((answer) => frames.push(["", { answer }])),
};
const revive = (data) => data?.hex === undefined ? data : new Uint8Array(Buffer.from(data.hex, "hex"));

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...parameters] = JSON.parse(line);
  calls[name](...parameters);
  await new Promise((resolve) => setImmediate(resolve));
  console.log(JSON.stringify(frames));
  frames = [];
}
