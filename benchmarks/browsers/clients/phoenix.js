import { Socket } from "phoenix";

export function start(note) {
  const socket = new Socket("/socket");
  socket.connect();
  const channel = socket.channel("room");
  channel.on("message", ({ n }) => note(n));
  channel.join();
}
