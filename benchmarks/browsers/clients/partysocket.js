import { WebSocket } from "partysocket";

export function start(note) {
  new WebSocket(`ws://${location.host}/ws`).onmessage = ({ data }) => note(Number(data));
}
