// The hooks, rendered by React into a document of happy-dom, with the server for tests.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Window } from "happy-dom";
import { connect } from "../../src/client.js";
import { createServer } from "../../src/testing.js";

const window = new Window();
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
globalThis.navigator ??= window.navigator;
const { StrictMode, Suspense, act, createElement: h, startTransition, use, useEffect, useLayoutEffect, useState } = await import("react");
const { createRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");
const { StabilizerProvider, useAnswer, useClient, useMessages, usePresence, useRequest, useRoom, useStatus } = await import("../../src/react.js");

const pause = () => new Promise((resolve) => setTimeout(resolve, 2));
const turn = () => new Promise((resolve) => setImmediate(resolve));
/** Fails instead of hanging: only a test that fails waits so long. */
const until = async (fact, wait = () => act(pause)) => {
  for (let tries = 0; !fact(); tries++) {
    assert.ok(tries < 2_500, `waited for ${fact}`);
    await wait();
  }
};

/** A server, a client that is connected, and a way to render components inside StrictMode and the provider. */
async function page(t, options = { rooms: ["chat", "other"] }, isAccepted = true) {
  const server = createServer(options), frames = [];
  class Socket extends server.WebSocket {
    send(frame) {
      frames.push(frame);
      super.send(frame);
    }
  }
  const client = connect("ws://test/ws", { WebSocket: Socket }), warnings = t.mock.method(console, "error", () => {});
  const element = window.document.createElement("div"), root = createRoot(element);
  const render = async (child, value = client) => act(async () => root.render(h(StrictMode, null, h(StabilizerProvider, { value }, child))));
  const unmount = async () => act(async () => root.unmount());
  t.after(async () => {
    await unmount();
    client.close();
    assert.deepEqual(warnings.mock.calls.map(({ arguments: [text] }) => text), []); // of React
  });
  if (isAccepted) await server.connected();
  return { server, client, frames, element, render, unmount };
}

test("the status is that of the client, and changes with it", async (t) => {
  const { server, client, render, element } = await page(t);
  const Status = () => useStatus();
  await render(h(Status));
  assert.equal(element.textContent, "live");
  await act(async () => server.drop());
  await until(() => element.textContent === "live" && server.handshakes.length === 2);
  await act(async () => client.close());
  assert.equal(element.textContent, "closed");
});

test("on a server the page is rendered without a connection", async (t) => {
  const { client } = await page(t);
  const Page = () => {
    useRoom("chat", { onMessage: assert.fail, join: true });
    return `${useStatus()} ${usePresence("chat").size}`;
  };
  assert.equal(renderToString(h(StabilizerProvider, { value: client }, h(Page))), "idle 0");
});

test("a component without a provider is told so", async (t) => {
  const { render } = await page(t);
  await assert.rejects(async () => render(h(() => useStatus()), null), /StabilizerProvider/);
});

test("each message is handled once, also if many come before React renders", async (t) => {
  const { server, render, element } = await page(t);
  const Chat = () => {
    const [all, setAll] = useState([]);
    useRoom("chat", { onMessage: ({ data }) => setAll((all) => [...all, data]) });
    return all.join();
  };
  await render(h(Chat));
  await act(async () => [1, 2, 3].forEach((number) => server.publish("chat", number)));
  await act(async () => server.publish("chat", 4));
  assert.equal(element.textContent, "1,2,3,4");
});

test("a handler is the one of the last render, without another subscription", async (t) => {
  const { server, client, render } = await page(t);
  const seen = [], room = client.room.bind(client);
  let subscriptions = 0;
  const counted = { ...client, on: client.on, room: (...parameters) => (subscriptions++, room(...parameters)) };
  const Chat = ({ name }) => void useRoom("chat", { onMessage: ({ data }) => seen.push([name, data]) });
  await render(h(Chat, { name: "first" }), counted);
  const before = subscriptions;
  for (const name of ["second", "third"]) await render(h(Chat, { name }), counted);
  server.publish("chat", 1);
  assert.deepEqual([seen, subscriptions], [[["third", 1]], before]);
});

test("a handler of a render that is not committed is not called", async (t) => {
  const { server, render } = await page(t);
  const seen = [], never = new Promise(() => {});
  let setName;
  const Wait = ({ name }) => name === "second" ? use(never) : null;
  const Chat = () => {
    const [name, set] = useState("first");
    setName = set;
    useRoom("chat", { onMessage: ({ data }) => seen.push([name, data]) });
    return h(Wait, { name });
  };
  await render(h(Suspense, { fallback: "…" }, h(Chat)));
  await act(async () => startTransition(() => setName("second")));
  server.publish("chat", 1);
  assert.deepEqual(seen, [["first", 1]]);
});

test("while the handler changes no message is lost, and none comes to the former one", async (t) => {
  const { server, render } = await page(t);
  const seen = [];
  const Noisy = ({ number }) => {
    useLayoutEffect(() => void server.publish("chat", number)); // other effects have not run
    useEffect(() => void server.publish("chat", number)); // those of the parent have not run
    return null;
  };
  const Chat = ({ number }) => {
    useRoom("chat", { onMessage: ({ data }) => seen.push([number, data]) });
    return h(Noisy, { number });
  };
  await render(h(Chat, { number: 0 }));
  seen.length = 0;
  for (const number of [1, 2]) await render(h(Chat, { number }));
  assert.deepEqual(seen, [[1, 1], [1, 1], [2, 2], [2, 2]]);
});

test("a component that a handler unmounts gets no more messages", async (t) => {
  const { server, render, unmount } = await page(t);
  const seen = [];
  const Part = ({ name, leave }) => void useRoom("chat", { onMessage: ({ data }) => (seen.push([name, data]), leave?.()) });
  let last;
  await render([h(Part, { key: 1, name: "one", leave: () => (last = unmount()) }), h(Part, { key: 2, name: "two" })]);
  await act(async () => server.publish("chat", 1));
  await last;
  server.publish("chat", 2);
  assert.deepEqual(seen, [["one", 1]]);
});

test("another room is handled from the next render on", async (t) => {
  const { server, render } = await page(t);
  const seen = [];
  const Chat = ({ room }) => void useRoom(room, { onMessage: ({ log, data }) => seen.push([log, data]) });
  await render(h(Chat, { room: "chat" }));
  await render(h(Chat, { room: "other" }));
  server.publish("chat", 1);
  server.publish("other", 2);
  assert.deepEqual(seen, [["other", 2]]);
});

test("messages wait until each component has reloaded, and an error of one changes nothing", async (t) => {
  const { server, render } = await page(t), reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const seen = [], ends = [];
  const Chat = ({ reload }) => void useRoom("chat", { onMessage: ({ data }) => seen.push(data), onLost: ({ code }) => seen.push(code), reload });
  const fail = async () => {
    throw new Error("no");
  };
  await render([h(Chat, { key: 1, reload: fail }), h(Chat, { key: 2, reload: () => new Promise((resolve) => ends.push(resolve)) })]);
  server.lose("chat", "hole");
  server.publish("chat", 1);
  await turn();
  assert.deepEqual(seen, ["hole", "hole"]);
  ends[0]();
  await turn();
  assert.deepEqual([seen, reported], [["hole", "hole", 1, 1], ["no"]]);
  await render(h(Chat, { key: 3 }));
  server.lose("chat");
  await turn();
  assert.equal(ends.length, 1);
});

test("what no room handles comes to useMessages, and a room without a handler handles nothing", async (t) => {
  const { server, render } = await page(t);
  const seen = [];
  const Chat = () => void useRoom("chat", { onLost: () => {} });
  const Rest = () => void useMessages({ onMessage: ({ log, data }) => seen.push([log, data]), onLost: ({ log }) => seen.push([log, "lost"]) });
  await render([h(Chat, { key: 1 }), h(Rest, { key: 2 })]);
  server.send("ann", "mail");
  server.broadcast("news");
  server.publish("chat", "chat");
  server.lose("chat");
  server.lose("other");
  assert.deepEqual(seen, [[0, "mail"], [1, "news"], ["chat", "chat"], ["other", "lost"]]);
});

test("the mailbox is marked when the promise of the handler is settled", async (t) => {
  const { server, render, frames } = await page(t);
  let end;
  const Mail = () => void useMessages({ onMessage: () => new Promise((resolve) => (end = resolve)) });
  await render(h(Mail));
  const id = server.send("ann", 1, { store: true });
  await turn();
  assert.ok(!frames.includes(`{"k":${id}}`));
  end();
  await turn();
  assert.ok(frames.includes(`{"k":${id}}`));
});

test("presence is asked for once, shown to all, and ends after the last component", async (t) => {
  const { server, render, element, frames } = await page(t);
  const Members = () => `[${[...usePresence("chat").keys()].sort()}]`;
  await render([h(Members, { key: 1 }), h(Members, { key: 2 })]);
  await act(async () => server.present("chat", { bob: null }));
  assert.equal(element.textContent, "[ann,bob][ann,bob]");
  await render(h(Members, { key: 3 }));
  await act(async () => server.present("chat", {}));
  assert.equal(element.textContent, "[ann]");
  assert.deepEqual(frames, ['{"p":"chat","v":0}']);
  await render(null);
  await until(() => frames.length === 2);
  assert.deepEqual(frames.slice(1), ['{"p":"chat","v":null}']);
  await render(h(Members));
  await until(() => element.textContent === "[ann]");
});

test("all components of a page show the same members, also if they change while React renders", async (t) => {
  const { server, client } = await page(t);
  const seen = [], element = window.document.createElement("div"), root = createRoot(element);
  let show;
  const Members = () => {
    for (const end = performance.now() + 10; performance.now() < end;); // so long that React yields behind it
    return h("i", null, [...usePresence("chat").keys()].sort().join());
  };
  const App = () => {
    const [count, set] = useState(1);
    show = set;
    useLayoutEffect(() => void seen.push([...element.querySelectorAll("i")].map((part) => part.textContent)));
    return Array.from({ length: count }, (_, key) => h(Members, { key }));
  };
  try {
    globalThis.IS_REACT_ACT_ENVIRONMENT = false; // there, React does not yield
    root.render(h(StabilizerProvider, { value: client }, h(App)));
    await until(() => element.textContent === "ann", pause);
    startTransition(() => show(4));
    setImmediate(() => setImmediate(() => server.present("chat", { bob: null })));
    await until(() => seen.at(-1).join() === "ann,bob,ann,bob,ann,bob,ann,bob", pause);
    root.unmount();
  } finally {
    globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  }
  for (const names of seen) assert.equal(new Set(names).size, 1, `${JSON.stringify(names)} was on the page`);
});

test("a room is joined once, also under StrictMode, and left after the last component", async (t) => {
  const { server, client, render, element, frames } = await page(t, { mayJoin: (_, room) => room !== "shut" });
  const Chat = ({ room }) => {
    const { isJoined, error } = useRoom(room, { join: true });
    return error ? error.code : isJoined ? "in" : "…";
  };
  await render([h(Chat, { key: 1, room: "open" }), h(Chat, { key: 2, room: "open" }), h(Chat, { key: 3, room: "other" })]);
  await until(() => element.textContent === "ininin");
  await render(h(Chat, { key: 4, room: "open" }));
  assert.equal(element.textContent, "in");
  await until(() => frames.length > 2);
  assert.deepEqual(frames, ['{"join":"open","q":1}', '{"join":"other","q":2}', '{"leave":"other","q":3}']);
  await render(h(Chat, { key: 4, room: "shut" }));
  await until(() => element.textContent === "forbidden");
  await until(() => !client.rooms.length);
  assert.deepEqual(server.clients, [{ client: "ann", rooms: [] }]);
});

test("a room is joined after an end that the application has undone", async (t) => {
  let code = 4401;
  const { server, client, render, element, unmount } = await page(t, { identify: () => code ? { code } : { id: "ann" } }, false);
  const Chat = () => {
    const { isJoined, error } = useRoom("open", { join: true });
    return error ? error.code : isJoined ? "in" : "…";
  };
  await render(h(Chat));
  await until(() => element.textContent === "unauthorized");
  code = 0; // the user has signed in
  await act(async () => client.reconnect());
  await until(() => element.textContent === "in");
  assert.deepEqual(client.rooms, ["open"]);
  await act(async () => server.drop({ code: 4510 }));
  await act(async () => {
    client.reconnect();
    client.close();
    client.reconnect();
  });
  await until(() => element.textContent === "in");
  await unmount();
  await until(() => !client.rooms.length);
  client.close();
  client.reconnect();
  await until(() => client.status === "live");
  assert.deepEqual([client.rooms, server.clients[0].rooms], [[], []]);
});

test("a room is joined when a connection comes, however long that takes", async (t) => {
  const { server, render, element } = await page(t);
  const now = Date.now, Chat = () => useRoom("open", { join: true }).isJoined ? "in" : "…";
  server.refuse();
  server.drop();
  await render(h(Chat));
  Date.now = () => now() + 3_600_000;
  t.after(() => Date.now = now);
  const tries = server.handshakes.length;
  await until(() => server.handshakes.length > tries + 3);
  server.accept();
  await until(() => element.textContent === "in");
});

test("a request has its outcome, of the last call only, also under StrictMode", async (t) => {
  const { server, render, element } = await page(t);
  const ends = {};
  server.onRequest("rename", (name) => new Promise((resolve, reject) => (ends[name] = { resolve, reject })));
  const found = new Set();
  let request;
  const Form = ({ name }) => {
    const [ask, outcome] = useRequest(name);
    found.add(request = ask);
    return JSON.stringify([!!outcome.isPending, outcome.data ?? null, outcome.error?.code ?? null]);
  };
  await render(h(Form, { name: "rename" }));
  const first = found.size;
  assert.equal(element.textContent, "[false,null,null]");
  let one, two;
  await act(async () => void (one = request("a"), two = request("b")));
  assert.equal(element.textContent, "[true,null,null]");
  await act(async () => (ends.b.resolve("B"), await two));
  await act(async () => (ends.a.resolve("A"), await one));
  assert.equal(element.textContent, '[false,"B",null]');
  assert.equal(found.size, first);
  await act(async () => void request("c"));
  await act(async () => (ends.c.reject(new Error("no")), await turn()));
  assert.equal(element.textContent, '[false,null,"failed"]');
  await render(h(Form, { name: "other" }));
  assert.equal(element.textContent, "[false,null,null]");
});

test("a request goes on when its component is gone", async (t) => {
  const { server, render, frames } = await page(t);
  let end, request;
  server.onRequest("save", () => new Promise((resolve) => (end = resolve)));
  const Form = () => ([request] = useRequest("save"), null);
  await render(h(Form));
  let saved;
  await act(async () => (saved = request(1), await turn()));
  await render(null);
  end("saved");
  assert.equal(await saved, "saved");
  assert.deepEqual(frames, ['{"q":1,"m":"save","d":1}']);
});

test("requests of the server are answered by the last render", async (t) => {
  const { server, render } = await page(t);
  const Confirm = ({ answer }) => void useAnswer("confirm", (data, { signal }) => [answer, data, signal.aborted]);
  await render(h(Confirm, { answer: 1 }));
  await render(h(Confirm, { answer: 2 }));
  assert.deepEqual(await server.request("ann", "confirm", "?"), [2, "?", false]);
  await render(null);
  await assert.rejects(server.request("ann", "confirm"), { code: "not_found" });
});

test("of two components that answer a request, one goes on when the other has gone", async (t) => {
  const { server, render } = await page(t);
  const Confirm = ({ answer }) => void useAnswer("confirm", () => answer), [first, second] = [1, 2].map((answer) => h(Confirm, { answer, key: answer }));
  await render([first, second]);
  assert.equal(await server.request("ann", "confirm"), 2);
  await render([second]);
  assert.equal(await server.request("ann", "confirm"), 2);
  await render([first, second]); // now the first one is the last that came
  assert.equal(await server.request("ann", "confirm"), 1);
  await render([second]);
  assert.equal(await server.request("ann", "confirm"), 2);
});

test("another client takes over at once", async (t) => {
  const { render, element, server } = await page(t);
  const other = createServer({ rooms: ["chat"], identify: () => ({ id: "bob" }) }), seen = [];
  const next = connect("ws://test/ws", { WebSocket: other.WebSocket });
  t.after(() => next.close());
  await other.connected();
  const Chat = () => {
    useRoom("chat", { onMessage: ({ data }) => seen.push(data) });
    return [useClient().id, ...usePresence("chat").keys()].join();
  };
  await render(h(Chat));
  await until(() => element.textContent === "ann,ann");
  await render(h(Chat), next);
  await until(() => element.textContent === "bob,bob");
  server.publish("chat", "no");
  other.publish("chat", "yes");
  assert.deepEqual(seen, ["yes"]);
});
