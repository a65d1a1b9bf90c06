// A server for the tests of a page: in this process, without a network. Its sockets speak `stabilizer.v1`.

import { StabilizerError } from "./errors.js";
import { encode, read } from "./frames.js";

/** @typedef {import("./frames.js").Failure} Failure */
/** @typedef {import("./frames.js").Log} Log */
/** @typedef {import("./frames.js").LostLog} LostLog */
/** @typedef {{ id?: string, rooms?: string[], metadata?: any }} Identity A client, the rooms that it enters, and what presence shows of it. */
/** @typedef {{ code: number, reason?: string }} Refusal A close code of docs/protocol.md; 1006 is a network that is away. */
/** @typedef {{ url: URL, token: string | null }} Handshake */
/**
 * What a client has sent. `data` is a string of a text message, an ArrayBuffer of a binary one, otherwise the value of
 * its JSON.
 *
 * @typedef {{ client: string, data: any, isConfirmed: boolean }} Received
 */
/**
 * @typedef {object} ServerOptions
 * @property {(handshake: Handshake) => Identity | Refusal} [identify] Who connects; by default the client "ann", in `rooms`.
 * @property {string[]} [rooms] Rooms of each client; none by default.
 * @property {string[]} [history] Beginnings of the names of rooms whose messages are stored; by default each room.
 * @property {(client: string, room: string) => boolean} [mayJoin] By default a client may join each room.
 * @property {(received: Received) => unknown} [onMessage] Handles a message. An error is what the sender gets.
 */
/** @typedef {{ id: number, data: any }} Entry */
/** @typedef {{ top: number, base: number, code: string, entries: Entry[] }} StoredLog `code`: why nothing up to `base` is there. */
/** @typedef {{ rooms: string[], handled: number }} Session */

const SUBPROTOCOL = "stabilizer.v1";
/** Ids are microseconds, as those of Redis. They need more than 32 bits. */
const FIRST_ID = 1_764_396_000_000_000;
const MAX_BYTES = 2 ** 20;
/** A drop after which a client comes back at once. */
const COME_BACK = { code: 1012, reason: '{"reconnect_in_ms":0}' };

/** @type {(coded: string) => string} */
const decoded = (coded) =>
  new TextDecoder().decode(Uint8Array.from(atob(coded.replaceAll("-", "+").replaceAll("_", "/")), (byte) => byte.charCodeAt(0)));

/** @type {(id: number, log: Log, data: any) => string | ArrayBuffer} The frame of a message. */
const frameOf = (id, log, data) => {
  const encoded = encode(data, MAX_BYTES);
  if (typeof encoded === "string") return `[${id},${JSON.stringify(log)},${encoded}]`;
  const room = new TextEncoder().encode(typeof log === "string" ? log : ""), frame = new Uint8Array(11 + room.length + encoded.length);
  const view = new DataView(frame.buffer);
  view.setUint8(0, log === 0 ? 1 : log === 1 ? 2 : 0);
  view.setBigUint64(1, BigInt(id));
  view.setUint16(9, room.length);
  frame.set(room, 11);
  frame.set(encoded, 11 + room.length);
  return frame.buffer;
};

/** @type {(error: any) => Failure} By its name, since the test has the class of another module. */
const failureOf = (error) =>
  error?.name === "StabilizerError"
    ? { code: error.code, message: error.message, retry: error.retry }
    : { code: "failed", message: `${error}` };
/** @type {(room: string) => void} */
const checkRoom = (room) => {
  if (!room || /\p{Cc}/u.test(room)) throw new StabilizerError("invalid", `no room can be called ${JSON.stringify(room)}`);
};

/** One connection of a client, from its `hi` to its end. */
class Connection {
  /** @type {Map<number, AbortController>} */
  running = new Map();
  /** @type {Map<number, { resolve: (value: any) => void, reject: (error: unknown) => void }>} */
  asked = new Map();
  /** @type {Set<string>} */
  watched = new Set();

  /**
   * @param {(frame: string | ArrayBuffer) => void} write
   * @param {string} client
   * @param {string} sid
   * @param {any} metadata
   * @param {Session} session
   */
  constructor(write, client, sid, metadata, session) {
    this.write = write;
    this.client = client;
    this.sid = sid;
    this.metadata = metadata;
    this.session = session;
    this.lastRequest = 0;
  }
  /** @param {object} frame */
  control(frame) {
    this.write(JSON.stringify(frame));
  }
}

/**
 * Make a server. Give its `WebSocket` to `connect`. What the test calls reaches the clients before the call returns; what
 * a client sends reaches the server a microtask later.
 *
 * @param {ServerOptions} [options]
 */
export function createServer({
  rooms = [], history = [""], identify = () => ({}), mayJoin = () => true, onMessage = () => {},
} = {}) {
  let lastId = FIRST_ID, lastSession = 0;
  /** @type {Map<Log, StoredLog>} */
  const logs = new Map();
  /** @type {Map<string, Session>} The sessions that a client may take over. */
  const sessions = new Map();
  /** @type {Map<string, number>} Where a client without a cursor begins in its mailbox. */
  const marks = new Map();
  /** @type {Map<string, Connection>} By the session. */
  const connections = new Map();
  /** @type {Map<string, Map<string, any>>} Members besides the clients of this server. */
  const others = new Map();
  /** @type {Map<string, { v: number, members: Map<string, any> }>} What presence has shown of a room. */
  const shown = new Map();
  /** @type {Map<string, (data: any, context: { client: string, signal: AbortSignal }) => unknown>} */
  const handlers = new Map();
  /** @type {Set<FakeSocket>} */
  const sockets = new Set();
  /** @type {((connection: { client: string, rooms: string[] }) => void)[]} */
  let waiting = [];
  /** @type {Refusal | null} */
  let refusal = null;
  /** @type {Received[]} */
  const received = [];
  /** @type {(Handshake & { cursor: any })[]} */
  const handshakes = [];

  /** @type {(client: string) => Connection[]} */
  const connectionsOf = (client) => [...connections.values()].filter((connection) => connection.client === client);
  const isStored = (/** @type {string} */ room) => history.some((prefix) => room.startsWith(prefix));
  /** @type {(log: Log, client?: string) => string} The mailboxes of two clients are two logs. */
  const keyOf = (log, client) => log === 0 ? `0 ${client}` : log === 1 ? "1" : `room ${log}`;
  /** @type {(key: string) => StoredLog} */
  const logOf = (key) => {
    const log = logs.get(key) ?? { top: 0, base: 0, code: "unknown", entries: [] };
    logs.set(key, log);
    return log;
  };
  /** @type {(key: string, data: any, store: boolean) => number} Return the id, 0 for a volatile message. */
  const append = (key, data, store) => {
    encode(data, MAX_BYTES); // before anything has changed
    if (!store) return 0;
    const log = logOf(key);
    log.top = ++lastId;
    log.entries.push({ id: lastId, data });
    return lastId;
  };
  /** @type {(connection: Connection) => { client: string, rooms: string[] }} */
  const view = ({ client, session }) => ({ client, rooms: [...session.rooms] });
  /** @type {() => { client: string, rooms: string[] }[]} Without those whose client closes them: it takes nothing any more. */
  const views = () => [...sockets].flatMap(({ readyState, connection }) => readyState === 1 && connection ? [view(connection)] : []);

  // Presence.

  /** @type {(room: string) => void} */
  const updatePresence = (room) => {
    const before = shown.get(room) ?? { v: FIRST_ID, members: new Map() };
    const members = new Map(others.get(room));
    for (const { client, metadata, session } of connections.values()) if (session.rooms.includes(room)) members.set(client, metadata);
    const arrived = [...members].filter(([id, metadata]) => !before.members.has(id) || JSON.stringify(before.members.get(id)) !== JSON.stringify(metadata));
    const gone = [...before.members.keys()].filter((id) => !members.has(id));
    if (!arrived.length && !gone.length) return void shown.set(room, before);
    shown.set(room, { v: before.v + 1, members });
    for (const connection of connections.values()) {
      if (connection.watched.has(room)) connection.control({ p: room, v: before.v + 1, ...arrived.length && { "+": arrived }, ...gone.length && { "-": gone } });
    }
  };
  /** @type {(connection: Connection, room: string, v: number) => void} */
  const showPresence = (connection, room, v) => {
    if (!connection.session.rooms.includes(room)) return;
    connection.watched.add(room);
    updatePresence(room);
    const { v: now, members } = /** @type {{ v: number, members: Map<string, any> }} */ (shown.get(room));
    if (v !== now) connection.control({ p: room, v: now, "=": [...members] });
  };

  // Rooms.

  /** @type {(connection: Connection, room: string) => void} */
  const enter = (connection, room) => {
    checkRoom(room);
    if (connection.session.rooms.includes(room)) return;
    connection.session.rooms.push(room);
    connection.control({ in: room, at: isStored(room) ? logOf(keyOf(room)).top : null });
    updatePresence(room);
  };
  /** @type {(connection: Connection, room: string) => void} */
  const exit = (connection, room) => {
    const { session } = connection;
    if (!session.rooms.includes(room)) return;
    session.rooms = session.rooms.filter((name) => name !== room);
    connection.watched.delete(room);
    connection.control({ out: room });
    updatePresence(room);
  };

  // Connections.

  /** @type {(socket: FakeSocket, cursor: any) => void} Greet a client, and send what it missed. */
  const greet = (socket, cursor) => {
    const { url, token } = socket;
    handshakes.push({ url, token, cursor });
    const found = refusal ?? identify({ url, token });
    if ("code" in found) return socket.end(found.code, found.reason);
    const { id: client = "ann", rooms: own = rooms, metadata = {} } = found, sid = `s${++lastSession}`;
    const former = sessions.get(cursor?.s);
    sessions.delete(cursor?.s);
    const session = { rooms: [...new Set([...own, ...former?.rooms ?? []])], handled: former?.handled ?? 0 };
    sessions.set(sid, session);
    const connection = new Connection((frame) => socket.deliver(frame), client, sid, metadata, session);
    /** @type {LostLog[]} */
    const lost = [];
    /** @type {[Log, Entry][]} */
    const missed = [];
    /** @type {(log: Log, from: number | null | undefined) => number} */
    const attach = (log, from) => {
      const { top, base, code, entries } = logOf(keyOf(log, client));
      if (from == null) return top;
      const isOlder = from > 0 && from < FIRST_ID; // than all that this server has stored
      if (isOlder || from > top || (from < base && from !== top)) {
        lost.push([log, top, isOlder ? "reset" : from > top ? "unknown" : code]);
        return top;
      }
      missed.push(...entries.filter(({ id }) => id > from).map((entry) => /** @type {[Log, Entry]} */ ([log, entry])));
      return from;
    };
    const all = attach(1, cursor?.all), box = attach(0, cursor?.box ?? marks.get(client) ?? 0);
    const at = Object.fromEntries(session.rooms.map((room) => [room, isStored(room) ? attach(room, cursor?.at?.[room]) : null]));
    const hi = {
      v: 1, id: client, sid, t: Math.floor(lastId / 1_000), ping: 25, pong: false, ...cursor && { re: !lost.length },
      ...former && { n: former.handled }, ...lost.length && { lost }, at, all, box,
    };
    socket.connection = connection;
    connections.set(sid, connection);
    connection.control({ hi });
    missed.sort(([, one], [, other]) => one.id - other.id);
    for (const [log, { id, data }] of missed) connection.write(frameOf(id, log, data));
    connection.control({ live: missed.length });
    session.rooms.forEach(updatePresence);
    for (const resolve of waiting.splice(0)) resolve(view(connection));
  };
  /** @type {(connection: Connection) => void} */
  const leave = (connection) => {
    connections.delete(connection.sid);
    for (const controller of connection.running.values()) controller.abort();
    for (const { reject } of connection.asked.values()) reject(new StabilizerError("interrupted", "the connection ended before the answer came"));
    connection.session.rooms.forEach(updatePresence);
  };
  /** @type {(connection: Connection, data: any, n: number) => Promise<void>} */
  const take = async (connection, data, n) => {
    const message = { client: connection.client, data, isConfirmed: n > 0 };
    received.push(message);
    /** @type {Failure | null} */
    let failure = null;
    try {
      await onMessage(message);
    } catch (error) {
      failure = failureOf(error);
    }
    if (!n) return;
    connection.session.handled = n;
    connection.control({ n, ...failure && { x: failure } });
  };
  /** @type {(connection: Connection, q: number, begin: (signal: AbortSignal) => unknown) => Promise<void>} */
  const answer = async (connection, q, begin) => {
    const controller = new AbortController();
    connection.running.set(q, controller);
    let answer;
    try {
      const result = await begin(controller.signal) ?? null;
      answer = `{"a":${q},"d":${encode(result, MAX_BYTES)}}`;
    } catch (error) {
      answer = JSON.stringify({ a: q, x: failureOf(error) });
    }
    if (connection.running.delete(q)) connection.write(answer);
  };
  /** @type {(connection: Connection, frame: any) => unknown} */
  const handle = (connection, frame) => {
    if (typeof frame !== "string") {
      const bytes = new Uint8Array(frame), view = new DataView(bytes.buffer);
      if (view.getUint8(0) !== 3) return;
      return take(connection, bytes.slice(5).buffer, view.getUint32(1));
    }
    const value = JSON.parse(frame), [kind] = Object.keys(value), { q } = value;
    switch (kind) {
      case "m":
        return take(connection, value.m, value.n ?? 0);
      case "q":
        return answer(connection, q, (signal) => {
          const handler = handlers.get(value.m);
          if (!handler) throw new StabilizerError("not_found", `no handler for ${value.m}`);
          return handler(value.d ?? null, { client: connection.client, signal });
        });
      case "join":
        return answer(connection, q, () => {
          if (!mayJoin(connection.client, value.join)) throw new StabilizerError("forbidden", `${connection.client} may not join ${value.join}`);
          enter(connection, value.join);
        });
      case "leave":
        return answer(connection, q, () => exit(connection, value.leave));
      case "auth":
        return answer(connection, q, () => ({ exp: null }));
      case "a": {
        const asked = connection.asked.get(value.a), { x } = value;
        connection.asked.delete(value.a);
        if (x) asked?.reject(new StabilizerError(x.code, x.message, { retry: x.retry }));
        else asked?.resolve(value.d ?? null);
        return;
      }
      case "c":
        connection.running.get(value.c)?.abort();
        return;
      case "k":
        return void marks.set(connection.client, Math.max(value.k, marks.get(connection.client) ?? 0));
      case "p":
        return value.v === null ? void connection.watched.delete(value.p) : showPresence(connection, value.p, value.v);
      case "ping":
        return connection.control({});
    }
  };

  class FakeSocket {
    static CONNECTING = 0;
    static OPEN = 1;
    static CLOSING = 2;
    static CLOSED = 3;
    readyState = 0;
    protocol = "";
    bufferedAmount = 0;
    extensions = "";
    binaryType = "blob";
    /** @type {((event: any) => void) | null} */
    onopen = null;
    /** @type {((event: any) => void) | null} */
    onmessage = null;
    /** @type {((event: any) => void) | null} */
    onclose = null;
    /** @type {((event: any) => void) | null} */
    onerror = null;
    /** @type {Connection | null} */
    connection = null;
    isAwaitingCursor = false;

    /**
     * @param {string | URL} url
     * @param {string | string[]} [protocols]
     */
    constructor(url, protocols = []) {
      this.url = new URL(url);
      const items = [protocols].flat();
      /** @type {(name: string) => string | null} */
      const item = (name) => items.find((text) => text.startsWith(`${SUBPROTOCOL}.${name}.`))?.slice(SUBPROTOCOL.length + name.length + 2) ?? null;
      const token = item("auth"), cursor = item("resume");
      this.token = token === null ? null : decoded(token);
      sockets.add(this);
      queueMicrotask(() => {
        if (this.readyState) return;
        if (refusal?.code === 1006) return this.end(1006);
        this.readyState = 1;
        this.protocol = items.includes(SUBPROTOCOL) ? SUBPROTOCOL : "";
        this.onopen?.({ type: "open" });
        this.isAwaitingCursor = cursor === "later";
        if (this.readyState === 1 && !this.isAwaitingCursor) greet(this, cursor === null ? null : JSON.parse(decoded(cursor)));
      });
    }
    /** @param {string | ArrayBuffer} frame A frame of the server, which the client must understand. */
    deliver(frame) {
      read(frame);
      if (this.readyState === 1) this.onmessage?.({ type: "message", data: frame });
    }
    /** @param {any} frame */
    send(frame) {
      const data = typeof frame === "string" ? frame : new Uint8Array(frame).slice();
      queueMicrotask(() => {
        if (this.readyState !== 1) return;
        if (this.connection) handle(this.connection, data);
        else if (this.isAwaitingCursor) greet(this, JSON.parse(/** @type {string} */ (data)).resume);
      });
    }
    /**
     * @param {number} [code]
     * @param {string} [reason]
     */
    close(code = 1005, reason = "") {
      if (this.readyState < 2) queueMicrotask(() => this.end(code, reason));
      this.readyState = Math.max(this.readyState, 2);
    }
    /** End it, as the server or the network does. */
    end(/** @type {number} */ code, reason = "") {
      if (!sockets.delete(this)) return;
      this.readyState = 3;
      if (this.connection) leave(this.connection);
      if (code === 1006) this.onerror?.({ type: "error" });
      this.onclose?.({ type: "close", code, reason, wasClean: code !== 1006 });
    }
  }

  /** @type {(clients: Iterable<Connection>, id: number, log: Log, data: any) => number} */
  const deliver = (clients, id, log, data) => {
    const chosen = [...clients];
    for (const connection of chosen) connection.write(frameOf(id, log, data));
    return id;
  };

  return {
    /** The constructor for the option `WebSocket` of `connect`. */
    WebSocket: /** @type {typeof WebSocket} */ (/** @type {unknown} */ (FakeSocket)),
    /** Messages of the clients, in the order in which they came. */
    received,
    /** The attempts to connect that reached the server, with what they offered. */
    handshakes,
    /** Clients that are connected, with their rooms. */
    get clients() {
      return views();
    },
    /** Wait until a client is connected and has what it missed. Return it at once if there is one. */
    connected() {
      const [connection] = views();
      return connection
        ? Promise.resolve(connection)
        : new Promise((/** @type {(connection: { client: string, rooms: string[] }) => void} */ resolve) => waiting.push(resolve));
    },

    /**
     * Send a message to a room, and store it if the room has a history.
     *
     * @param {string} room
     * @param {any} data
     * @returns {number} Its id, 0 if it is not stored.
     */
    publish(room, data) {
      checkRoom(room);
      const id = append(keyOf(room), data, isStored(room));
      return deliver([...connections.values()].filter(({ session }) => session.rooms.includes(room)), id, room, data);
    },
    /** Send a message to a client. `store`: it waits in its mailbox. */
    send(/** @type {string} */ client, /** @type {any} */ data, { store = false } = {}) {
      return deliver(connectionsOf(client), append(keyOf(0, client), data, store), 0, data);
    },
    /** Send a message to everybody. */
    broadcast(/** @type {any} */ data, { store = false } = {}) {
      return deliver(connections.values(), append(keyOf(1), data, store), 1, data);
    },
    /**
     * Lose what a room has stored: connected clients are told now, others when they come back.
     *
     * @param {string} room
     * @param {string} [code] "trimmed", "unknown", "reset" or "hole".
     */
    lose(room, code = "trimmed") {
      const log = logOf(keyOf(room));
      Object.assign(log, { top: ++lastId, base: lastId, code, entries: [] });
      for (const connection of connections.values()) {
        if (connection.session.rooms.includes(room)) connection.control({ lost: [[room, log.top, code]] });
      }
    },

    /** End all connections. By default the clients come back at once; after `{ code: 1006 }` a little later. */
    drop({ code, reason = "" } = /** @type {Refusal} */ (COME_BACK)) {
      for (const socket of [...sockets]) socket.end(code, reason);
    },
    /** Refuse connections until `accept`. `{ code: 1006 }` is a network that is away. */
    refuse({ code, reason = "" } = /** @type {Refusal} */ ({ code: 1013, reason: '{"reconnect_in_ms":0}' })) {
      refusal = { code, reason };
    },
    accept() {
      refusal = null;
    },
    /** Drain: each client opens its next connection, and leaves the former one when that is ready. */
    go() {
      for (const connection of connections.values()) connection.control({ go: { in: 800 } });
    },

    /** Put a client into a room, or out of it, as the application of the server does. */
    join(/** @type {string} */ client, /** @type {string} */ room) {
      for (const connection of connectionsOf(client)) enter(connection, room);
    },
    leave(/** @type {string} */ client, /** @type {string} */ room) {
      for (const connection of connectionsOf(client)) exit(connection, room);
    },
    /**
     * Set the members of a room besides the clients of this server.
     *
     * @param {string} room
     * @param {Record<string, any>} members Metadata by client id.
     */
    present(room, members) {
      others.set(room, new Map(Object.entries(members)));
      updatePresence(room);
    },

    /**
     * Answer a request of the clients. A StabilizerError is answered with its code.
     *
     * @param {string} name
     * @param {(data: any, context: { client: string, signal: AbortSignal }) => unknown} handler
     */
    onRequest(name, handler) {
      handlers.set(name, handler);
    },
    /**
     * Ask a client.
     *
     * @param {string} client
     * @param {string} name
     * @param {any} [data]
     * @returns {Promise<any>}
     */
    request(client, name, data = null) {
      const connection = connectionsOf(client).at(-1);
      if (!connection) return Promise.reject(new StabilizerError("not-connected", `${client} is not connected`));
      const q = ++connection.lastRequest;
      return new Promise((resolve, reject) => {
        connection.asked.set(q, { resolve, reject });
        connection.control({ q, m: name, d: data });
      });
    },
  };
}
