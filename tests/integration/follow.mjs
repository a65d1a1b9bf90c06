// What a client saw, for tests: a page imports this from its server, and Node from this directory.

export function follow(connect, url, { stored = null, ...options } = {}) {
  const kept = stored === "all" ? globalThis.sessionStorage : null;
  const seen = JSON.parse(kept?.getItem("seen") ?? "[]"), changes = [], refused = [];
  const note = (event) => {
    seen.push(event);
    kept?.setItem("seen", JSON.stringify(seen));
  };
  const client = connect(url, stored ? { storage: globalThis.sessionStorage, ...options } : options);
  let told = 0, confirmed = 0, timer;
  client.on("message", ({ data }) => note(data instanceof ArrayBuffer ? [...new Uint8Array(data)] : data));
  client.on("lost", ({ log, code }) => note({ lost: log, code }));
  client.on("status", ({ to, cause, closeCode }) => changes.push({ to, cause, closeCode, at: Date.now() / 1000 }));
  /** Send numbers that the server confirms and stores for a room. */
  const tell = (by, room, interval) => {
    timer = setInterval(() => {
      const number = ++told;
      const sent = client.send(JSON.stringify({ told: number, by, room }), { confirm: true, timeout: 600_000 });
      sent.then(() => confirmed++, ({ code }) => refused.push(code));
    }, interval);
  };
  Object.assign(globalThis, {
    client, seen, changes, tell,
    stopTelling: () => clearInterval(timer),
    told: () => ({ told, confirmed, refused }),
  });
  return client;
}
