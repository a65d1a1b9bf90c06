// The client of an application: carries out what the machine decides, with sockets, timers and the events of the page.

import { StabilizerError } from "./errors.js";
import { demand } from "./frames.js";
import { createMachine } from "./machine.js";
import { LONGEST_SLEEP, SAVE_INTERVAL } from "./numbers.js";

export { StabilizerError };

/** @typedef {import("./frames.js").Failure} Failure */
/** @typedef {import("./frames.js").Log} Log */
/** @typedef {import("./machine.js").Action} Action */
/** @typedef {import("./machine.js").Effects} Effects */
/** @typedef {import("./machine.js").Status} Status */
/** @typedef {import("./machine.js").StatusChange} StatusChange */
/**
 * A message. `id` is its place in the history, 0 if it is not stored. `data` is a string of a text message, an
 * ArrayBuffer of a binary one, otherwise the value of its JSON.
 *
 * @typedef {{ log: Log, id: number, data: any }} Message
 */
/**
 * Messages of a log are missing, up to an id, and cannot be replayed. It comes before any later message of the log.
 *
 * @typedef {{ log: Log, top: number, code: string }} Lost
 */
/**
 * @template A
 * @typedef {(value: A) => unknown} Handler
 */
/** @typedef {() => void} Unsubscribe */
/** @typedef {{ timeout?: number, signal?: AbortSignal }} CallOptions `timeout` in milliseconds. */

/**
 * @typedef {object} ConnectOptions
 * @property {string | (() => string | Promise<string>)} [auth] A token, or a function that gets one. It is called before
 *   each attempt, and before the token expires.
 * @property {Pick<Storage, "getItem" | "setItem">} [storage] Where positions are kept, such as sessionStorage: then a
 *   reload of the page misses nothing. Use it if the state of the application survives the reload as well.
 * @property {string} [storageKey]
 * @property {typeof WebSocket} [WebSocket] For platforms without a global one.
 * @property {number} [maxMessageBytes] Longest message or request that is sent; 1,000,000 by default.
 * @property {number} [maxUnconfirmed] Messages that are kept until they are confirmed; 1,000 by default.
 * @property {number} [maxUnconfirmedBytes] Their data in bytes; 1 MiB by default.
 * @property {number} [maxWaiting] Messages that wait while a room is reloaded; 1,000 by default.
 */

/** @type {(error: unknown) => void} An error of a handler is reported, and changes nothing else. */
const report = (error) => (globalThis.reportError ?? console.error)(error);

/**
 * Handlers of one log, or of what no room handles.
 *
 * @typedef {object} Handlers
 * @property {Set<Handler<Message>>} message
 * @property {Set<Handler<Lost>>} lost
 * @property {Set<Handler<Map<string, any>>>} presence
 * @property {Set<Handler<StatusChange>>} status
 * @property {((lost: Lost) => unknown) | undefined} reload
 * @property {Message[] | null} waiting Messages that wait while the application reloads.
 * @property {Lost | null} again The loss after which it must reload once more.
 */
/** @type {() => Handlers} */
const createHandlers = () => ({
  message: new Set(), lost: new Set(), presence: new Set(), status: new Set(), reload: undefined, waiting: null, again: null,
});
/** @type {<A>(handlers: Iterable<Handler<A>>, value: A) => Promise<unknown>[]} */
const call = (handlers, value) => [...handlers].map(async (handler) => {
  try {
    await handler(value);
  } catch (error) {
    report(error);
  }
});
/** @type {<F extends (...parameters: any[]) => unknown>(handlers: Set<F>, handler: F) => Unsubscribe} The same function may be added twice, so each subscription has one of its own. */
const subscribe = (handlers, handler) => {
  const own = /** @type {any} */ ((/** @type {any[]} */ ...parameters) => handler(...parameters));
  handlers.add(own);
  return () => void handlers.delete(own);
};

/**
 * Connect to an endpoint of fastapi-websocket-stabilizer. The client comes back by itself, and misses nothing.
 *
 * @param {string | URL} url `wss://…`, or relative to the page.
 * @param {ConnectOptions} [options]
 */
export function connect(url, {
  auth, storage, storageKey = `stabilizer:${url}`, WebSocket = globalThis.WebSocket, maxWaiting = 1_000, ...bounds
} = {}) {
  const page = /** @type {any} */ (globalThis), address = new URL(url, page.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  demand(WebSocket, "no WebSocket: pass one");

  /** @type {Map<number, WebSocket>} */
  const sockets = new Map();
  /** @type {Action[]} */
  const queue = [];
  let isBusy = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let saver;
  let time = 0, wall = Date.now();

  // The application.

  /** @type {Map<Log, Handlers>} */
  const logs = new Map();
  const others = createHandlers();
  /** @type {Map<string, Set<(data: any, context: { signal: AbortSignal }) => unknown>>} The last one answers. */
  const requests = new Map();
  /** @type {Map<string, AbortController>} */
  const answering = new Map();
  /** Ends when the handlers of all messages of the mailbox so far have returned. */
  let mail = Promise.resolve();

  /** @type {(log: Log) => Handlers} */
  const handlersOf = (log) => {
    const handlers = logs.get(log) ?? createHandlers();
    logs.set(log, handlers);
    return handlers;
  };
  /** @type {(event: "message" | "lost", value: Message | Lost, id: number) => void} Call the handlers of a log. Mark the mailbox when they have returned. */
  const dispatch = (event, value, id) => {
    const own = logs.get(value.log)?.[event];
    const results = call(/** @type {Set<Handler<any>>} */ (own?.size ? own : others[event]), value);
    if (value.log === 0 && id) mail = Promise.all([mail, ...results]).then(() => run(machine._handled, id));
  };
  /** @type {(message: Message) => void} */
  const deliver = (message) => dispatch("message", message, message.id);
  /** @type {(handlers: Handlers, lost: Lost) => Promise<void>} Later messages wait. If too many do, reload once more. */
  const reload = async (handlers, lost) => {
    handlers.waiting = [];
    handlers.again = lost;
    while (handlers.again) {
      const current = handlers.again;
      handlers.again = null;
      await call([/** @type {Handler<Lost>} */ (handlers.reload)], current)[0];
    }
    const waiting = handlers.waiting;
    handlers.waiting = null;
    waiting.forEach(deliver);
    save();
  };

  /** @type {<A>(use: () => A) => A | undefined} The page may not use the store, or it is full. */
  const tryToStore = (use) => {
    try {
      return use();
    } catch (error) {
      report(error);
    }
  };

  // What the machine decides.

  /** @type {(generation: number, error: unknown) => void} A socket cannot be opened, or not be written to. */
  const broken = (generation, error) => queueMicrotask(() => run(machine._closed, generation, 1006, `${error}`));

  /** @type {Effects} */
  const effects = {
    async _authorize(generation, isRenewal) {
      try {
        const token = await (typeof auth === "function" ? auth() : auth);
        demand(typeof token === "string", `auth returned ${token}, not a string`);
        run(isRenewal ? machine._renew : machine._authorized, generation, token);
      } catch (error) {
        report(error);
        if (!isRenewal) run(machine._unauthorized, generation, `no token: ${error}`);
      }
    },
    _dial(generation, items) {
      try {
        const socket = new WebSocket(address.href, items);
        sockets.set(generation, socket);
        socket.binaryType = "arraybuffer";
        socket.onopen = () => run(machine._opened, generation, socket.protocol);
        socket.onmessage = ({ data }) => run(machine._frame, generation, data);
        socket.onclose = ({ code, reason }) => {
          sockets.delete(generation);
          run(machine._closed, generation, code, reason);
        };
        // Node 20 sends no close event for a socket that could not be opened. ws throws an error without a handler.
        socket.onerror = () => socket.readyState || broken(generation, "");
      } catch (error) {
        broken(generation, error);
      }
    },
    _send(generation, frame) {
      const socket = sockets.get(generation);
      try {
        if (socket?.readyState === 1) socket.send(frame);
      } catch (error) {
        broken(generation, error);
      }
    },
    _close(generation) {
      sockets.get(generation)?.close(1000);
      sockets.delete(generation);
    },
    _message(log, id, data) {
      const handlers = logs.get(log), message = { log, id, data };
      if (!handlers?.waiting) return deliver(message);
      if (handlers.waiting.push(message) > maxWaiting) {
        handlers.waiting = [];
        handlers.again = { log, top: id, code: "limit" };
      }
    },
    _lost(log, top, code) {
      const handlers = logs.get(log), lost = { log, top, code };
      dispatch("lost", lost, top);
      if (!handlers?.reload) return;
      if (!handlers.waiting) return reload(handlers, lost);
      handlers.waiting = [];
      handlers.again = lost;
    },
    _settle: (settle, error, value) => settle(error, value),
    async _asked(generation, n, name, data) {
      const key = `${generation} ${n}`, controller = new AbortController(), handler = [...requests.get(name) ?? []].at(-1);
      answering.set(key, controller);
      /** @type {any} */
      let result;
      /** @type {Failure | null} */
      let failure = null;
      const fail = (/** @type {unknown} */ error) => {
        report(error);
        failure = { code: "failed", message: "the handler failed" };
      };
      try {
        demand(handler, `no handler for ${name}`, "not_found");
        result = await handler(data, { signal: controller.signal });
      } catch (error) {
        if (error instanceof StabilizerError) failure = error;
        else fail(error);
      }
      answering.delete(key);
      const answer = () => run(machine._answer, generation, n, failure, result);
      try {
        answer();
      } catch (error) { // the result is no JSON
        fail(error);
        answer();
      }
    },
    _unasked: (generation, n) => answering.get(`${generation} ${n}`)?.abort(),
    _room() {},
    _presence: (room, members) => call(handlersOf(room).presence, members),
    _status: (change) => call(others.status, change),
  };
  const machine = createMachine(effects, {
    ...bounds, _random: Math.random, _hasAuth: auth !== undefined, _canRenew: typeof auth === "function",
    _saved: tryToStore(() => storage?.getItem(storageKey)),
  });

  /** A clock that goes on while the system sleeps, and does not go back. */
  const clock = () => {
    const before = wall;
    wall = Date.now();
    return time += Math.max(0, wall - before);
  };
  /** @type {<A extends any[]>(event: (...parameters: A) => unknown, ...parameters: A) => void} Pass an event to the machine, and carry out its actions. */
  const run = (event, ...parameters) => {
    queue.push(...machine._handle(clock(), event, ...parameters));
    if (isBusy) return; // a handler called: its actions follow behind those under way
    isBusy = true;
    for (let action; action = queue.shift();) action[0](...action.slice(1));
    isBusy = false;
    clearTimeout(timer);
    const wait = machine._timerAt() - clock();
    if (wait < Infinity) timer = setTimeout(run, Math.min(Math.max(wait, 0), LONGEST_SLEEP), machine._timer);
    if (storage) saver ??= setTimeout(save, SAVE_INTERVAL);
  };
  const save = () => {
    clearTimeout(saver);
    saver = undefined;
    if ([...logs.values()].some(({ waiting }) => waiting)) return; // the next page must load it as well
    tryToStore(() => storage?.setItem(storageKey, machine._save()));
  };
  /** @type {<A extends any[]>(event: (key: any, timeout: number, ...parameters: A) => unknown, options: CallOptions, ...parameters: A) => Promise<any>} */
  const ask = (event, { timeout = 10_000, signal }, ...parameters) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      demand(timeout === +timeout, `timeout=${timeout} is no number`); // the next timer would have no time
      /** @type {(error: unknown, value?: any) => void} */
      const settle = (error, value) => {
        signal?.removeEventListener("abort", abort);
        if (error) reject(error);
        else resolve(value);
      };
      const abort = () => {
        run(machine._cancel, settle);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort);
      try {
        run(event, settle, timeout, ...parameters);
      } catch (error) {
        settle(error);
      }
    });

  // The page.

  /** @type {[target: any, event: string, handler: () => void][]} */
  const listeners = [
    [page, "online", machine._online], [page, "offline", machine._offline], [page, "pagehide", machine._hide],
    [page, "pageshow", machine._show], [page.document, "resume", machine._wake], [page.document, "visibilitychange", machine._wake],
  ].map(([target, event, handle]) => [target, event, () => {
    run(handle);
    save();
  }]);
  const listen = (/** @type {"addEventListener" | "removeEventListener"} */ how) => {
    for (const [target, event, handler] of listeners) target?.[how]?.(event, handler);
  };
  listen("addEventListener");
  queueMicrotask(() => machine._now() === "idle" && run(machine._start));

  return {
    /** @type {Status} */
    get status() {
      return machine._now();
    },
    /** The id that the server has given this client, "" before the first connection. */
    get id() {
      return machine._clientId();
    },
    /** The rooms of the connection. */
    get rooms() {
      return [...machine._rooms()];
    },
    /** Why the client has ended, if the application has not closed it. */
    get error() {
      return machine._error();
    },
    /**
     * Call a function with each message that no room handles, with each loss or change of the state.
     *
     * @type {((event: "message", handler: Handler<Message>) => Unsubscribe)
     *   & ((event: "lost", handler: Handler<Lost>) => Unsubscribe)
     *   & ((event: "status", handler: Handler<StatusChange>) => Unsubscribe)}
     */
    on(/** @type {"message" | "lost" | "status"} */ event, /** @type {Handler<any>} */ handler) {
      demand(others[event], `no event ${event}`);
      return subscribe(/** @type {Set<Handler<any>>} */ (others[event]), handler);
    },
    /**
     * Handlers of a room. It joins nothing: that is for `join`, or for the server.
     *
     * @param {string} name
     * @param {{ reload?: (lost: Lost) => unknown }} [options] `reload` loads the state of a room that lost continuity.
     *   Later messages wait for it.
     */
    room(name, { reload } = {}) {
      const handlers = handlersOf(name);
      handlers.reload = reload ?? handlers.reload;
      return {
        name,
        on: (/** @type {Handler<Message>} */ handler) => subscribe(handlers.message, handler),
        onLost: (/** @type {Handler<Lost>} */ handler) => subscribe(handlers.lost, handler),
        /** Call a function with all members, metadata by client id, whenever they change. */
        presence(/** @type {Handler<Map<string, any>>} */ handler) {
          const unsubscribe = subscribe(handlers.presence, handler);
          run(machine._watch, name);
          return () => {
            unsubscribe();
            if (!handlers.presence.size) run(machine._unwatch, name);
          };
        },
        /** Join the room, also on the next connections. */
        join: (/** @type {CallOptions} */ options = {}) => ask(machine._move, options, "join", name),
        leave: (/** @type {CallOptions} */ options = {}) => ask(machine._move, options, "leave", name),
      };
    },
    /**
     * Send a message: a string, bytes, or what becomes JSON. With `confirm` it is sent again on the next connections until
     * the server has handled it. Without, it is lost if the connection breaks.
     *
     * @param {any} data
     * @param {CallOptions & { confirm?: boolean }} [options]
     * @returns {Promise<void>}
     */
    send: async (data, { confirm = false, timeout = 30_000, signal } = {}) =>
      confirm ? ask(machine._confirm, { timeout, signal }, data) : (signal?.throwIfAborted(), run(machine._transmit, data)),
    /**
     * Ask the server. Without a connection, the request waits for one.
     *
     * @param {string} name
     * @param {any} [data]
     * @param {CallOptions} [options]
     * @returns {Promise<any>}
     */
    request: (name, data = null, options = {}) => ask(machine._request, options, name, data),
    /**
     * Answer requests of the server. A StabilizerError that the handler throws is answered with its code. Of several
     * handlers the last one answers; when it is ended, the one before does.
     *
     * @param {string} name
     * @param {(data: any, context: { signal: AbortSignal }) => unknown} handler
     * @returns {Unsubscribe}
     */
    onRequest(name, handler) {
      const handlers = requests.get(name) ?? new Set();
      requests.set(name, handlers);
      return subscribe(handlers, handler);
    },
    /** Drop the connection and connect at once, also if the server has ended the client. */
    reconnect() {
      listen("addEventListener");
      run(machine._reconnect);
    },
    /** End the client. Calls without an outcome are rejected. */
    close() {
      run(machine._end);
      listen("removeEventListener");
      clearTimeout(timer);
      if (storage) save();
    },
  };
}
