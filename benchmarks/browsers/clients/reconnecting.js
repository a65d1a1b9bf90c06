import ReconnectingWebSocket from "reconnecting-websocket";

export function start(note) {
  new ReconnectingWebSocket(`ws://${location.host}/ws`).onmessage = ({ data }) => note(Number(data));
}
