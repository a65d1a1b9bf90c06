import { Centrifuge } from "centrifuge";

// The client keeps no position across a reload, but takes one. So the page keeps it, as an application would.
export function start(note, tell) {
  const since = JSON.parse(sessionStorage.getItem("position"));
  const client = new Centrifuge(`ws://${location.host}/connection/websocket`);
  const subscription = client.newSubscription("re:room", since ? { since } : {});
  let epoch = since?.epoch;
  subscription.on("subscribed", ({ wasRecovering, recovered, streamPosition }) => {
    epoch = streamPosition?.epoch;
    if (wasRecovering && !recovered) tell();
  });
  subscription.on("publication", ({ data, offset }) => {
    note(data.n);
    sessionStorage.setItem("position", JSON.stringify({ offset, epoch }));
  });
  subscription.subscribe();
  client.connect();
}
