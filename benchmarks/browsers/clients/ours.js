import { connect } from "../../../clients/javascript/src/client.js";

export function start(note, tell) {
  const client = connect("/ws?name=ann", { storage: sessionStorage });
  client.on("message", ({ data }) => note(data.n));
  client.on("lost", tell);
}
