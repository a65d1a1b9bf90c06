import { io } from "socket.io-client";

export function start(note, tell) {
  const socket = io({ transports: ["websocket"] });
  let isFirst = true;
  socket.on("connect", () => {
    if (!isFirst && !socket.recovered) tell();
    isFirst = false;
  });
  socket.on("message", note);
}
