// The client of an application: carries out what the machine decides, with sockets, timers and the events of the page.

import { StabilizerError } from "./errors.js";
import { createMachine } from "./machine.js";

export { StabilizerError };

/** @typedef {import("./frames.js").Failure} Failure */
/** @typedef {import("./frames.js").Log} Log */
/** @typedef {import("./machine.js").Action} Action */
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

/** Longest time between two looks at the clock, which show that the system was asleep. */
const LONGEST_SLEEP = 10_000;
const SAVE_INTERVAL = 200;

/** @type {(error: unknown) => void} An error of a handler is reported, and changes nothing else. */
const report = (error) => globalThis.reportError ? globalThis.reportError(error) : console.error(error);

/** @type {() => () => number} A clock that goes on while the system sleeps, and does not go back. */
const createClock = () => {
  let last = 0, offset = 0;
  return () => {
    const time = Date.now() + offset;
    if (time < last) offset += last - time;
    return last = Math.max(time, last);
  };
};

/**
 * Handlers of one log.
 *
 * @typedef {object} Handlers
 * @property {Set<Handler<Message>>} messages
 * @property {Set<Handler<Lost>>} losses
 * @property {Set<Handler<Map<string, any>>>} presences
 * @property {((lost: Lost) => unknown) | undefined} reload
 * @property {Message[] | null} waiting Messages that wait while the application reloads.
 * @property {Lost | null} again The loss after which it must reload once more.
 */

/**
 * Connect to an endpoint of fastapi-websocket-stabilizer. The client comes back by itself, and misses nothing.
 *
 * @param {string | URL} url `wss://…`, or relative to the page.
 * @param {ConnectOptions} [options]
 */
export function connect(url, options = {}) {
  const {
    auth, storage, storageKey = `stabilizer:${url}`, WebSocket = globalThis.WebSocket, maxWaiting = 1_000, ...bounds
  } = options;
  const address = new URL(url, globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (!WebSocket) throw new StabilizerError("invalid", "this platform has no WebSocket: pass one as the option WebSocket");
  const clock = createClock();
  const machine = createMachine({
    ...bounds, random: Math.random, hasAuth: auth !== undefined, canRenew: typeof auth === "function",
    saved: storage?.getItem(storageKey) ?? null,
  });

  /** @type {Map<number, WebSocket>} */
  const sockets = new Map();
  /** @type {Action[]} */
  const queue = [];
  let isBusy = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let saver;

  // Events of the machine.

  /** @type {(event: (now: number) => Action[]) => void} Pass an event to the machine, and carry out its actions. */
  const run = (event) => {
    queue.push(...event(clock()));
    if (isBusy) return; // a handler called: its actions follow behind those under way
    isBusy = true;
    for (let action; action = queue.shift();) carryOut(action);
    isBusy = false;
    clearTimeout(timer);
    const wait = machine.timerAt() - clock();
    if (wait < Infinity) timer = setTimeout(() => run(machine.timer), Math.min(Math.max(wait, 0), LONGEST_SLEEP));
    if (storage) saver ??= setTimeout(save, SAVE_INTERVAL);
  };
  const save = () => {
    clearTimeout(saver);
    saver = undefined;
    try {
      storage?.setItem(storageKey, machine.save());
    } catch (error) {
      report(error); // the store is full, say
    }
  };
  /** @type {(generation: number, items: string[]) => void} */
  const dial = (generation, items) => {
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new WebSocket(address.href, items);
    } catch (error) {
      queueMicrotask(() => run((now) => machine.closed(now, generation, 1006, `${error}`)));
      return;
    }
    sockets.set(generation, socket);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => run((now) => machine.opened(now, generation, socket.protocol));
    socket.onmessage = ({ data }) => run((now) => machine.frame(now, generation, data));
    socket.onclose = ({ code, reason }) => {
      sockets.delete(generation);
      run((now) => machine.closed(now, generation, code, reason));
    };
    // Node 20 sends no close event for a socket that could not be opened. ws throws an error without a handler.
    socket.onerror = () => socket.readyState || run((now) => machine.closed(now, generation, 1006, ""));
  };
  /** @type {(generation: number, isRenewal: boolean) => Promise<void>} */
  const authorize = async (generation, isRenewal) => {
    try {
      const token = await (typeof auth === "function" ? auth() : auth);
      if (typeof token !== "string") throw new TypeError(`auth returned ${token}, and not a string`);
      run((now) => (isRenewal ? machine.renew : machine.authorized)(now, generation, token));
    } catch (error) {
      report(error);
      if (!isRenewal) run((now) => machine.unauthorized(now, generation, `no token: ${error}`));
    }
  };

  // The application.

  /** @type {Map<Log, Handlers>} */
  const logs = new Map();
  /** @type {Set<Handler<StatusChange>>} */
  const statuses = new Set();
  /** @type {Map<string, (data: any, context: { signal: AbortSignal }) => unknown>} */
  const requests = new Map();
  /** @type {Map<string, AbortController>} */
  const answering = new Map();
  /** @type {Map<unknown, (error: unknown, value?: any) => void>} Calls without an outcome. */
  const pending = new Map();

  /** @type {() => Handlers} */
  const createHandlers = () => ({
    messages: new Set(), losses: new Set(), presences: new Set(), reload: undefined, waiting: null, again: null,
  });
  /** @type {(log: Log) => Handlers} */
  const handlersOf = (log) => {
    const handlers = logs.get(log) ?? createHandlers();
    logs.set(log, handlers);
    return handlers;
  };
  /** Handlers of what no room handles. */
  const others = createHandlers();
  /** @type {<A>(handlers: Set<Handler<A>>, value: A) => Promise<unknown>[]} */
  const call = (handlers, value) =>
    [...handlers].map(async (handler) => handler(value)).map((result) => result.catch(report));
  /** @type {<A>(handlers: Set<Handler<A>>, handler: Handler<A>) => Unsubscribe} */
  const subscribe = (handlers, handler) => {
    handlers.add(handler);
    return () => void handlers.delete(handler);
  };
  /** @type {{ id: number, isHandled: boolean }[]} What came of the mailbox since the first message whose handlers have not returned. */
  const mail = [];
  /** @type {(log: Log, id: number, results: Promise<unknown>[]) => Promise<void>} Mark the mailbox up to that message. */
  const markBehind = async (log, id, results) => {
    if (log !== 0 || !id) return;
    const item = { id, isHandled: false };
    mail.push(item);
    await Promise.all(results);
    item.isHandled = true;
    const first = mail.findIndex(({ isHandled }) => !isHandled), count = first < 0 ? mail.length : first;
    const last = mail.splice(0, count).pop();
    if (last) run((now) => machine.handled(now, last.id));
  };
  /** @type {(message: Message) => void} */
  const deliver = (message) => {
    const own = logs.get(message.log);
    markBehind(message.log, message.id, call(own?.messages.size ? own.messages : others.messages, message));
  };
  /** @type {(handlers: Handlers, lost: Lost) => Promise<void>} Later messages wait. If too many do, reload once more. */
  const reload = async (handlers, lost) => {
    handlers.waiting = [];
    /** @type {Lost | null} */
    let current = lost;
    while (current) {
      handlers.again = null;
      try {
        await handlers.reload?.(current);
      } catch (error) {
        report(error);
      }
      current = handlers.again;
    }
    const waiting = handlers.waiting;
    handlers.waiting = null;
    waiting.forEach(deliver);
  };

  /** @type {(action: Action) => void} */
  const carryOut = (action) => {
    switch (action[0]) {
      case "authorize":
        return void authorize(action[1], action[2]);
      case "dial":
        return dial(action[1], action[2]);
      case "send": {
        const socket = sockets.get(action[1]);
        if (socket?.readyState === 1) socket.send(action[2]);
        return;
      }
      case "close":
      case "abandon": {
        const socket = sockets.get(action[1]);
        sockets.delete(action[1]);
        if (socket) {
          socket.onopen = socket.onmessage = socket.onclose = null;
          socket.close(1000);
        }
        return;
      }
      case "message": {
        const [, log, id, data] = action, handlers = logs.get(log), message = { log, id, data };
        if (!handlers?.waiting) return deliver(message);
        handlers.waiting.push(message);
        if (handlers.waiting.length > maxWaiting) {
          handlers.waiting = [];
          handlers.again = { log, top: id, code: "limit" };
        }
        return;
      }
      case "lost": {
        const [, log, top, code] = action, handlers = logs.get(log), lost = { log, top, code };
        markBehind(log, top, call(handlers?.losses.size ? handlers.losses : others.losses, lost));
        if (!handlers?.reload) return;
        if (!handlers.waiting) return void reload(handlers, lost);
        handlers.waiting = [];
        handlers.again = lost;
        return;
      }
      case "settle": {
        const [, key, error, value] = action;
        return pending.get(key)?.(error, value);
      }
      case "asked":
        return void answer(action[1], action[2], action[3], action[4]);
      case "unasked":
        return answering.get(`${action[1]} ${action[2]}`)?.abort();
      case "presence":
        return void call(handlersOf(action[1]).presences, action[2]);
      case "status":
        return void call(statuses, action[1]);
    }
  };
  /** @type {(generation: number, n: number, name: string, data: any) => Promise<void>} */
  const answer = async (generation, n, name, data) => {
    const key = `${generation} ${n}`, controller = new AbortController(), handler = requests.get(name);
    answering.set(key, controller);
    /** @type {any} */
    let result = null;
    /** @type {Failure | null} */
    let failure = handler ? null : { code: "not_found", message: `no handler for ${name}` };
    try {
      result = await handler?.(data, { signal: controller.signal }) ?? null;
    } catch (error) {
      const isMeant = error instanceof StabilizerError;
      if (!isMeant) report(error);
      failure = isMeant ? error : { code: "failed", message: "the handler failed" };
    }
    answering.delete(key);
    try {
      run((now) => machine.answer(now, generation, n, result, failure));
    } catch (error) { // the result is no JSON
      report(error);
      run((now) => machine.answer(now, generation, n, null, { code: "failed", message: "the handler failed" }));
    }
  };
  /** @type {(begin: (now: number, key: object) => Action[], signal?: AbortSignal) => Promise<any>} */
  const callMachine = (begin, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const key = {}, abort = () => {
        run((now) => machine.cancel(now, key));
        pending.get(key)?.(signal?.reason);
      };
      pending.set(key, (error, value) => {
        pending.delete(key);
        signal?.removeEventListener("abort", abort);
        if (error) reject(error);
        else resolve(value);
      });
      signal?.addEventListener("abort", abort);
      try {
        run((now) => begin(now, key));
      } catch (error) {
        pending.get(key)?.(error);
      }
    });

  // The page.

  const target = /** @type {any} */ (globalThis);
  /** @type {[target: any, event: string, handler: (event: any) => void][]} */
  const listeners = [
    [target, "online", () => run(machine.online)],
    [target, "offline", () => run(machine.offline)],
    [target, "pagehide", () => (run(machine.hide), save())],
    [target, "pageshow", () => run(machine.show)],
    [target.document, "resume", () => run(machine.wake)],
    [target.document, "visibilitychange", () =>
      target.document.hidden ? (run(machine.flush), save()) : run(machine.wake)],
  ];
  const listen = (/** @type {"addEventListener" | "removeEventListener"} */ how) => {
    for (const [target, event, handler] of listeners) target?.[how]?.(event, handler);
  };
  listen("addEventListener");
  queueMicrotask(() => run(machine.start));

  return {
    /** @type {Status} */
    get status() {
      return machine.status();
    },
    /** The id that the server has given this client, "" before the first connection. */
    get id() {
      return machine.clientId();
    },
    /** The rooms of the connection. */
    get rooms() {
      return [...machine.rooms()];
    },
    /** Why the client has ended, if the application has not closed it. */
    get error() {
      return machine.error();
    },
    /**
     * Call a function with each message that no room handles, with each loss or change of the state.
     *
     * @type {((event: "message", handler: Handler<Message>) => Unsubscribe)
     *   & ((event: "lost", handler: Handler<Lost>) => Unsubscribe)
     *   & ((event: "status", handler: Handler<StatusChange>) => Unsubscribe)}
     */
    on: (/** @type {string} */ event, /** @type {Handler<any>} */ handler) =>
      subscribe(/** @type {Set<Handler<any>>} */ (event === "status" ? statuses : event === "lost" ? others.losses : others.messages), handler),
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
        on: (/** @type {Handler<Message>} */ handler) => subscribe(handlers.messages, handler),
        onLost: (/** @type {Handler<Lost>} */ handler) => subscribe(handlers.losses, handler),
        /** Call a function with all members, metadata by client id, whenever they change. */
        presence(/** @type {Handler<Map<string, any>>} */ handler) {
          const unsubscribe = subscribe(handlers.presences, handler);
          run((now) => machine.watch(now, name));
          return () => {
            unsubscribe();
            if (!handlers.presences.size) run((now) => machine.unwatch(now, name));
          };
        },
        /** Join the room, also on the next connections. */
        join: ({ timeout = 10_000, signal } = /** @type {CallOptions} */ ({})) =>
          callMachine((now, key) => machine.move(now, key, "join", name, now + timeout), signal),
        leave: ({ timeout = 10_000, signal } = /** @type {CallOptions} */ ({})) =>
          callMachine((now, key) => machine.move(now, key, "leave", name, now + timeout), signal),
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
    async send(data, { confirm = false, timeout = 30_000, signal } = {}) {
      if (!confirm) return run((now) => machine.send(now, data));
      await callMachine((now, key) => machine.confirm(now, key, data, now + timeout), signal);
    },
    /**
     * Ask the server. Without a connection, the request waits for one.
     *
     * @param {string} name
     * @param {any} [data]
     * @param {CallOptions} [options]
     * @returns {Promise<any>}
     */
    request: (name, data = null, { timeout = 10_000, signal } = {}) =>
      callMachine((now, key) => machine.request(now, key, name, data, now + timeout), signal),
    /**
     * Answer requests of the server. A StabilizerError that the handler throws is answered with its code.
     *
     * @param {string} name
     * @param {(data: any, context: { signal: AbortSignal }) => unknown} handler
     * @returns {Unsubscribe}
     */
    onRequest(name, handler) {
      requests.set(name, handler);
      return () => void requests.delete(name);
    },
    /** Drop the connection and connect at once, also if the server has ended the client. */
    reconnect() {
      listen("addEventListener");
      run(machine.reconnect);
    },
    /** End the client. Calls without an outcome are rejected. */
    close() {
      run(machine.close);
      listen("removeEventListener");
      clearTimeout(timer);
      if (storage) save();
    },
  };
}
