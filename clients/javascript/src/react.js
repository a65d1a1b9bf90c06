// Hooks for React. The application makes the client, outside of its components: `connect` opens a socket.

import * as React from "react";

/** @typedef {ReturnType<typeof import("./client.js").connect>} Client */
/** @typedef {import("./client.js").CallOptions} CallOptions */
/** @typedef {import("./client.js").Lost} Lost */
/** @typedef {import("./client.js").Message} Message */
/** @typedef {import("./client.js").StabilizerError} StabilizerError */
/** @typedef {import("./machine.js").Status} Status */
/**
 * @template A
 * @typedef {import("./client.js").Handler<A>} Handler
 */
/**
 * @typedef {object} RoomOptions
 * @property {Handler<Message>} [onMessage] Called once with each message. It may be another function in each render.
 * @property {Handler<Lost>} [onLost]
 * @property {Handler<Lost>} [reload] Loads the state of a room that lost continuity. Later messages wait for it.
 * @property {boolean} [join] Join the room while a component uses it. Without it, the server decides about the rooms.
 */
/** @typedef {{ isJoined?: boolean, error: any }} Membership `error`: why the server has not let the client in. */
/** @typedef {{ isPending?: boolean, data?: any, error: any }} Outcome Of the last request. */
/**
 * What components share: those who listen, or load.
 *
 * @typedef {Set<any> & { value?: any, end?: () => void, timer?: ReturnType<typeof setTimeout> }} Shared
 */

/** Milliseconds until the end of what no component uses: StrictMode, and a change of pages, unmount and mount again. */
const LINGER = 100;
const NOTHING = { error: null };
/** @type {Map<string, any>} */
const NO_MEMBERS = new Map();

const Context = React.createContext(/** @type {Client | null} */ (null));

/** Gives the client that is its `value` to the hooks of the components inside. */
export const StabilizerProvider = Context.Provider;

/** @type {() => Client} The client of the provider. */
export const useClient = () => {
  const client = React.useContext(Context);
  if (!client) throw new Error("StabilizerProvider is missing");
  return client;
};

/** @type {() => Status} The state of the connection. */
export const useStatus = () => {
  const client = useClient();
  return React.useSyncExternalStore((listener) => client.on("status", listener), () => client.status, () => "idle");
};

/**
 * Keep a subscription while the component is mounted. Only the last committed render has a say: another one may be
 * discarded.
 *
 * @template Value
 * @param {((value: Value, context: any) => unknown) | undefined} handler
 * @param {string} name
 * @param {(client: Client, handler: (value: Value, context?: any) => unknown) => () => void} subscribe
 */
const useHandler = (handler, name, subscribe) => {
  const client = useClient(), latest = React.useRef(handler), isUsed = !!handler;
  React.useInsertionEffect(() => void (latest.current = handler));
  React.useEffect(() => {
    if (!isUsed) return;
    let isMounted = true; // another handler of the same message may unmount the component
    const end = subscribe(client, (value, context) => isMounted && latest.current?.(value, context));
    return () => {
      isMounted = false;
      end();
    };
  }, [client, name, isUsed]);
};

/** @type {WeakMap<Client, Map<string, Shared>>} */
const clients = new WeakMap();
/** @type {(client: Client, key: string) => Shared} */
const sharedBy = (client, key) => {
  const all = clients.get(client) ?? new Map(), shared = all.get(key) ?? new Set();
  clients.set(client, all.set(key, shared));
  return shared;
};
/**
 * Share what several components need once: begin it with the first of them, and end it after the last one.
 *
 * @template Value
 * @param {string} key
 * @param {Value} initial
 * @param {(client: Client, set: (value: Value) => void) => () => void} begin
 * @returns {Value}
 */
const useShared = (key, initial, begin) => {
  const client = useClient();
  const subscribe = React.useCallback((/** @type {() => void} */ listener) => {
    const shared = sharedBy(client, key);
    clearTimeout(shared.timer);
    shared.end ??= begin(client, (value) => {
      shared.value = value;
      shared.forEach((listener) => listener());
    });
    shared.add(listener);
    return () => {
      shared.delete(listener);
      if (shared.size) return;
      shared.timer = setTimeout(() => {
        clients.get(client)?.delete(key);
        shared.end?.();
      }, LINGER);
    };
  }, [client, key]);
  return React.useSyncExternalStore(subscribe, () => sharedBy(client, key).value ?? initial, () => initial);
};

/** @type {(client: Client, name: string, reload: Handler<Lost>) => () => void} A client has one `reload` for each room, which calls all of these. */
const addReload = (client, name, reload) => {
  const all = sharedBy(client, `reload ${name}`).add(reload);
  client.room(name, {
    reload: async (lost) => {
      const results = [...all].map(async (reload) => reload(lost));
      await Promise.allSettled(results); // one that fails must not end the wait for the others
      return Promise.all(results);
    },
  });
  return () => all.delete(reload);
};

/**
 * Handle the messages of a room.
 *
 * @param {string} name
 * @param {RoomOptions} [options]
 * @returns {Membership}
 */
export const useRoom = (name, { onMessage, onLost, reload, join } = {}) => {
  useHandler(reload, name, (client, handler) => addReload(client, name, handler));
  useHandler(onLost, name, (client, handler) => client.room(name).onLost(handler));
  useHandler(onMessage, name, (client, handler) => client.room(name).on(handler));
  return useShared(`${join} ${name}`, /** @type {Membership} */ (NOTHING), (client, set) => {
    if (!join) return () => {};
    const room = client.room(name);
    const enter = () => {
      set(NOTHING);
      room.join({ timeout: Infinity }).then(() => set({ ...NOTHING, isJoined: true }), (error) => set({ error }));
    };
    enter();
    const end = client.on("status", ({ from }) => from === "closed" && enter()); // the end has rejected the former call
    return () => {
      end();
      room.leave().catch(() => {});
    };
  });
};

/** @type {(options: { onMessage?: Handler<Message>, onLost?: Handler<Lost> }) => void} Handle what no room handles: messages to this client, and to everybody. */
export const useMessages = ({ onMessage, onLost }) => {
  useHandler(onLost, "", (client, handler) => client.on("lost", handler));
  useHandler(onMessage, "", (client, handler) => client.on("message", handler));
};

/** @type {(name: string) => Map<string, any>} The members of a room, metadata by client id; empty until they are known. */
export const usePresence = (name) =>
  useShared(`presence ${name}`, NO_MEMBERS, (client, set) => client.room(name).presence(set));

/**
 * A function that asks the server, and the outcome of its last call. The function stays the same between renders.
 *
 * @param {string} name
 * @returns {[request: (data?: any, options?: CallOptions) => Promise<any>, outcome: Outcome]}
 */
export const useRequest = (name) => {
  const client = useClient(), [outcome, setOutcome] = React.useState(/** @type {Outcome & { by?: unknown }} */ (NOTHING));
  const request = React.useMemo(() => {
    /** @type {unknown} */
    let last;
    /** @type {(data?: any, options?: CallOptions) => Promise<any>} */
    const request = (data, options) => {
      const asked = last = client.request(name, data, options);
      /** @type {(outcome: Partial<Outcome>) => unknown} */
      const tell = (outcome) => asked === last && setOutcome({ ...NOTHING, ...outcome, by: request });
      tell({ isPending: true });
      asked.then((data) => tell({ data }), (error) => tell({ error }));
      return asked;
    };
    return request;
  }, [client, name]);
  return [request, outcome.by === request ? outcome : NOTHING];
};

/** @type {(name: string, handler: (data: any, context: { signal: AbortSignal }) => unknown) => void} Answer requests of the server. */
export const useAnswer = (name, handler) =>
  useHandler(handler, name, (client, handler) => client.onRequest(name, handler));
