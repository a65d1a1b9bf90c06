// The machine of a client: events in, actions out. It has no socket, no clock and no chance of its own. Times are
// milliseconds of a clock that does not go back. It may be called while earlier actions are carried out; its actions
// then follow behind the earlier ones.

import { StabilizerError } from "./errors.js";
import { LAST_NUMBER, encode, isLog, message, read, requestName, roomName, sizeOf, utf8 } from "./frames.js";

/** @typedef {import("./frames.js").Failure} Failure */
/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./frames.js").Hi} Hi */
/** @typedef {import("./frames.js").Log} Log */
/** @typedef {import("./frames.js").LostLog} LostLog */
/** @typedef {import("./frames.js").Member} Member */
/** @typedef {import("./frames.js").Positions} Positions */
/** @typedef {"idle" | "connecting" | "catching-up" | "live" | "waiting" | "offline" | "closed"} Status */

/**
 * A change of the state of a client.
 *
 * @typedef {object} StatusChange
 * @property {Status} from
 * @property {Status} to
 * @property {string} cause What ended the last connection or attempt, for people; "" if nothing did.
 * @property {number} closeCode Its close code, 0 without one.
 * @property {number} attempt Failed attempts in a row.
 * @property {number | null} retryIn Milliseconds until the next attempt.
 * @property {StabilizerError | null} error Why the client has ended, if the application has not closed it.
 */

/**
 * Sockets have numbers, called generations. Events of former ones change nothing.
 *
 * @typedef {[action: "authorize", generation: number, isRenewal: boolean]
 *   | [action: "dial", generation: number, items: string[]] | [action: "send", generation: number, frame: Frame]
 *   | [action: "close" | "abandon", generation: number]
 *   | [action: "message", log: Log, id: number, data: any] | [action: "lost", log: Log, top: number, code: string]
 *   | [action: "settle", key: unknown, error: StabilizerError | null, value: any]
 *   | [action: "asked", generation: number, n: number, name: string, data: any]
 *   | [action: "unasked", generation: number, n: number]
 *   | [action: "room", room: string, isMember: boolean, error: StabilizerError | null]
 *   | [action: "presence", room: string, members: Map<string, any>] | [action: "status", change: StatusChange]} Action
 */

/** @typedef {{ do: "retry" | "renew" | "stop" | "ignore", after: number | null, by: string }} Reaction */
/**
 * A connection before `hi`.
 *
 * @typedef {{ generation: number, deadline: number, isDialed: boolean, isOpen: boolean, cursor: string, isLater: boolean }} Attempt
 */
/**
 * A connection after `hi`. `mayReplaceItself`: an attempt beside it has failed. Its session is unknown, and may yet take
 * the place of this connection.
 *
 * @typedef {{ generation: number, silence: number, heard: number, probeEnds: number, awaitsOutcome: boolean,
 *   liveSince: number, handoverAt: number, mayReplaceItself: boolean }} Link
 */
/**
 * A request of this client, or a call of its own: without a key. `n` is 0 until it is sent.
 *
 * @typedef {{ key: unknown, verb: "request" | "join" | "leave" | "auth", subject: string, frame: string, deadline: number, n: number }} Call
 */
/**
 * A message that is kept until it is confirmed. `n` is 0 until it is sent.
 *
 * @typedef {{ key: unknown, data: Frame, size: number, deadline: number, n: number, isSettled: boolean }} Unconfirmed
 */
/** @typedef {{ v: number, isWatched: boolean, members: Map<string, any>, pages: Map<string, any>, pagesOf: number, asked: number }} Presence */

/**
 * @typedef {object} Options
 * @property {() => number} random Numbers from 0 up to 1.
 * @property {boolean} [hasAuth] Each attempt begins with getting credentials.
 * @property {boolean} [canRenew] Newer credentials can be had.
 * @property {string | null} [saved] What an earlier page has saved.
 * @property {number} [maxMessageBytes] Longest message or request that is sent.
 * @property {number} [maxUnconfirmed] Messages that are kept until they are confirmed.
 * @property {number} [maxUnconfirmedBytes] Their data in bytes.
 * @property {number} [maxHeld] Frames of the old socket that wait until the next socket is ready.
 */

const SUBPROTOCOL = "stabilizer.v1";
/** Close codes: ended without a close frame; credentials refused; another connection of this client. */
const BROKEN = 1006, UNAUTHORIZED = 4401, REPLACED = 4500;
/** Milliseconds of an attempt; of the delays after failed ones, with full jitter; of the longest hint of a server. */
const ATTEMPT = 10_000, FIRST_DELAY = 500, LONGEST_DELAY = 20_000, LONGEST_HINT = 300_000;
/** Longest delay after the drop of a connection that was live for `SETTLED`. */
const AFTER_LIVE = 1_000, SETTLED = 5_000;
/** Silence beyond the interval of the server's signs of life; then the time for an answer, shorter after a sleep. */
const GRACE = 10_000, PATIENCE = 5_000, PATIENCE_AFTER_SLEEP = 2_000;
/** A timer that is later than this shows that the machine was asleep. */
const LATE = 5_000;
/** Requests in flight in each direction; calls that wait, and the time for the answer to a call of the client's own. */
const MAX_OPEN = 64, MAX_WAITING = 1024, ANSWERED = 30_000;
/** Messages to several rooms that are remembered, so that each is given to the application once. */
const KEYS = 256;
/** Messages of the mailbox, or time, after which the server is told that they were handled. */
const MARK_EVERY = 64, MARK_INTERVAL = 1_000;
/** Time after which a change of presence that does not follow is a reason to ask once more. */
const ASKED_AGAIN = 5_000;

/**
 * The reaction to a close code. Unknown codes are judged by their range.
 *
 * @param {number} code
 * @param {string} reason
 * @param {string[]} [own] Sessions of this client.
 * @returns {Reaction}
 */
export function react(code, reason, own = []) {
  /** @type {any} */
  let value;
  try {
    value = JSON.parse(reason);
  } catch {
    // a text for people
  }
  const hint = value?.reconnect_in_ms, by = `${value?.by ?? ""}`;
  const hasHint = [1012, 1013, 4029].includes(code) && typeof hint === "number" && hint >= 0;
  const mayReturn = code < 2000 ? ![1003, 1007, 1008, 1009].includes(code) : [3, 4].includes(Math.floor(code / 500) / 2);
  return {
    do: code === REPLACED && own.includes(by) ? "ignore" : code === UNAUTHORIZED ? "renew" : mayReturn ? "retry" : "stop",
    after: hasHint ? Math.min(hint, LONGEST_HINT) : null,
    by,
  };
}

/** @type {(text: string) => string} UTF-8 in base64url without padding: a browser refuses "=". */
const coded = (text) =>
  btoa(String.fromCharCode(...utf8(text))).replace(/[+/=]/g, (found) => found === "+" ? "-" : found === "/" ? "_" : "");

/**
 * The items of `Sec-WebSocket-Protocol`, and whether the cursor must be the first frame.
 *
 * @param {string} cursor "" for none
 * @param {string | null} token
 * @param {boolean} later
 * @returns {[items: string[], isLater: boolean]}
 */
export function offer(cursor, token, later) {
  const items = [SUBPROTOCOL];
  if (token !== null) items.push(`${SUBPROTOCOL}.auth.${coded(token)}`);
  const size = () => items.join(", ").length, limit = 4096;
  if (cursor) {
    items.push(`${SUBPROTOCOL}.resume.`);
    later ||= size() + Math.ceil(sizeOf(cursor) * 4 / 3) > limit;
    items.push(items.pop() + (later ? "later" : coded(cursor)));
  }
  if (size() > limit) {
    throw new StabilizerError("closed", `the token makes a header of ${size()} bytes, the limit is ${limit}: use a cookie or a ticket in the URL`);
  }
  return [items, !!cursor && later];
}

/** @param {Options} options */
export function createMachine({
  random, hasAuth = false, canRenew = hasAuth, saved = null, maxMessageBytes = 1_000_000, maxUnconfirmed = 1_000,
  maxUnconfirmedBytes = 1_048_576, maxHeld = 10_000,
}) {
  /** The time of the event that is handled. */
  let now = 0;
  /** @type {Action[]} */
  let actions = [];
  /** @type {(...action: Action) => void} */
  const emit = (...action) => void actions.push(action);

  let generation = 0;
  /** @type {Attempt | null} */
  let attempt = null;
  /** @type {Link | null} */
  let link = null;
  /** @type {[kind: string, value: any][] | null} Frames of the old socket while an attempt is under way. */
  let held = null;
  let dialAt = Infinity;
  /** @type {boolean | null} null: an attempt will show. */
  let isOnline = null;
  let isStarted = false, isClosed = false;
  /** @type {string | null} The session that has replaced the old socket while an attempt is under way. */
  let replacedBy = null;
  let failures = 0, failuresBeforeHi = 0, refusals = 0;
  let clientId = "", cause = "", closeCode = 0;
  /** @type {StabilizerError | null} */
  let error = null;
  /** @type {Status} */
  let told = "idle";

  const fail = (/** @type {string} */ code, /** @type {string} */ text, closeCode = 0, retry = false) =>
    new StabilizerError(code, text, { closeCode, retry });
  const closedByApplication = fail("closed", "the client was closed by the application");

  /** @type {() => Status} */
  const status = () =>
    !isStarted ? "idle"
      : isClosed ? "closed"
      : link ? link.liveSince < Infinity ? "live" : "catching-up"
      : attempt ? "connecting"
      : isOnline === false ? "offline" : "waiting";

  // Positions: what the next cursor says.

  /** @type {string[]} */
  let sessions = [];
  let heardTo = 0;
  /** @type {Map<Log, number>} */
  const positions = new Map();
  /** @type {string[]} */
  let keys = [];

  /** @type {(log: Log, id: number | null | undefined) => unknown} Ids are not compared: after a failover of Redis they can be smaller. */
  const move = (log, id) => id == null ? positions.delete(log) : positions.set(log, id);
  /** @type {(value: Positions) => void} */
  const moveAll = ({ at, all, box }) => {
    for (const room in at) move(room, at[room]);
    if (all != null) move(1, all);
    if (box != null) move(0, box);
  };
  /** @type {(rows: LostLog[]) => void} */
  const lose = (rows) => {
    const known = rows.filter(([log]) => isLog(log)); // a later release may have others
    for (const [log, top] of known) move(log, top);
    for (const [log, top, code] of known) emit("lost", log, top, code);
  };
  const cursor = () => {
    const [session] = sessions.slice(-1);
    if (session === undefined) return "";
    let rooms = "", others = "";
    for (const [log, id] of positions) {
      if (log === 0) others += `,"box":${id}`;
      else if (log === 1) others = `,"all":${id}${others}`;
      else rooms += `${rooms && ","}${JSON.stringify(log)}:${id}`;
    }
    return `{"s":${JSON.stringify(session)},"t":${heardTo},"at":{${rooms}}${others}}`;
  };
  /** @type {(hi: Hi, hadCursor: boolean) => void} Replace the positions, and tell which logs lost continuity. */
  const startFrom = (hi, hadCursor) => {
    const rows = [...hi.lost ?? []];
    if (hadCursor && hi.re == null) { // the cursor was removed on the way
      /** @type {(log: Log, id: number | null | undefined) => void} */
      const compare = (log, id) => {
        if (id != null && (positions.get(log) ?? id) !== id && !rows.some((row) => row[0] === log)) rows.push([log, id, "unknown"]);
      };
      for (const room in hi.at) compare(room, hi.at[room]);
      compare(1, hi.all);
      compare(0, hi.box);
    }
    sessions = [...sessions, hi.sid].slice(-16);
    heardTo = hi.t;
    move(0, null);
    move(1, null);
    moveAll(hi);
    lose(rows);
  };
  try {
    const [{ s, t, ...rest }, known] = JSON.parse(saved ?? "");
    moveAll(rest);
    [sessions, heardTo, keys] = [[s], t, known];
  } catch {
    // nothing was saved, or by another release
  }

  // Calls. Each has one outcome: "settle", or `cancel`.

  /** @type {Call[]} In their order, those that wait and those in flight. */
  let calls = [];
  let lastNumber = 0;
  /** @type {Set<string>} */
  let rooms = new Set();
  /** @type {Set<string>} Rooms that the application joined by itself. */
  const wanted = new Set();
  /** @type {Set<number>} Requests of the server without an answer. */
  const asked = new Set();

  /** @type {(frame: Frame) => void} */
  const send = (frame) => {
    if (link) emit("send", link.generation, frame);
  };
  /** @type {(call: Call, why?: StabilizerError | null, value?: any) => void} */
  const settle = ({ key, verb, subject }, why = null, value = null) => {
    if (key !== undefined) emit("settle", key, why, value);
    else if (verb === "join" && why) {
      wanted.delete(subject);
      emit("room", subject, false, why);
    }
  };
  const sendCalls = () => {
    let open = calls.filter(({ n }) => n).length;
    for (const call of calls) {
      if (link && !call.n && open++ < MAX_OPEN) {
        call.n = ++lastNumber;
        send(call.verb === "request" ? `{"q":${call.n},${call.frame}}` : `{${call.frame},"q":${call.n}}`);
      }
    }
  };
  /** @type {(key: unknown, verb: Call["verb"], subject: string, frame: string, deadline: number) => void} */
  const add = (key, verb, subject, frame, deadline) => {
    if (calls.filter(({ n }) => !n).length >= MAX_WAITING) throw fail("limit", `${MAX_WAITING} requests wait to be sent`, 0, true);
    calls.push({ key, verb, subject, frame, deadline, n: 0 });
    sendCalls();
  };
  /** @type {(verb: "join" | "leave" | "auth", subject: string, key?: unknown, deadline?: number) => void} */
  const addShort = (verb, subject, key, deadline = now + ANSWERED) =>
    add(key, verb, subject, `"${verb}":${JSON.stringify(subject)}`, deadline);
  /** @type {(fits: (call: Call) => unknown, why?: StabilizerError) => void} Remove calls, and tell the server to stop. */
  const withdraw = (fits, why) => {
    const found = calls.filter(fits);
    calls = calls.filter((call) => !found.includes(call));
    for (const call of found) {
      if (call.n) send(`{"c":${call.n}}`);
      if (why) settle(call, why);
    }
    sendCalls();
  };

  // Confirmed messages. The numbers of a session have no gaps, so a message with a number stays until it is confirmed.

  /** @type {Unconfirmed[]} */
  let unconfirmed = [];
  /** The first ones were sent on this connection. */
  let sent = 0;
  let nextNumber = 1;

  const sendMessages = () => {
    for (; link && sent < unconfirmed.length; sent++) {
      const item = unconfirmed[sent];
      item.n ||= nextNumber++;
      send(message(item.data, item.n));
    }
  };
  /** @type {(item: Unconfirmed, why?: StabilizerError | null) => void} */
  const confirm = (item, why = null) => {
    if (!item.isSettled) emit("settle", item.key, why, null);
    item.isSettled = true;
  };
  /** @type {(number: number, why?: (item: Unconfirmed) => StabilizerError | null) => void} The server has handled messages. */
  const handledTo = (number, why) => {
    const count = unconfirmed.filter(({ n }) => n && n <= number).length;
    sent = Math.max(0, sent - count);
    for (const item of unconfirmed.splice(0, count)) confirm(item, why?.(item));
  };
  const dropSettled = () => {
    unconfirmed = unconfirmed.filter(({ n, isSettled }) => n || !isSettled);
  };

  // Presence of rooms, and marks of the mailbox.

  /** @type {Map<string, Presence>} */
  const presences = new Map();
  let mark = 0, marked = 0, markedAt = -Infinity;
  /** The time to renew the credentials. */
  let renewAt = Infinity;

  /** @type {(room: string, presence: Presence) => void} */
  const ask = (room, presence) => {
    presence.asked = now;
    send(`{"p":${JSON.stringify(room)},"v":${presence.v}}`);
  };
  /** @type {(presence: Presence) => void} No other page of the snapshot comes. */
  const endPages = (presence) => {
    presence.pages = new Map();
    presence.pagesOf = presence.asked = -Infinity;
  };
  /** @type {(room: string, presence: Presence) => void} */
  const show = (room, { isWatched, members }) => {
    if (isWatched) emit("presence", room, new Map(members));
  };
  /** @type {(frame: any) => void} */
  const present = ({ p: room, v, from = v - 1, more, "=": page, "+": arrived, "-": gone }) => {
    const presence = presences.get(room);
    if (!presence) return;
    if (page) {
      if (presence.pagesOf !== v) presence.pages = new Map();
      presence.pagesOf = v;
      for (const [id, metadata] of page) presence.pages.set(id, metadata);
      if (more) return;
      presence.members = presence.pages;
      endPages(presence);
    } else if (from !== presence.v) {
      if (presence.isWatched && now - presence.asked >= ASKED_AGAIN) ask(room, presence);
      return;
    } else {
      for (const id of gone ?? []) presence.members.delete(id);
      for (const [id, metadata] of arrived ?? []) presence.members.set(id, metadata);
      presence.asked = -Infinity;
    }
    presence.v = v;
    show(room, presence);
  };
  const sendMark = (atOnce = false) => {
    if (link && mark && (atOnce || marked >= MARK_EVERY || now >= markedAt + MARK_INTERVAL)) {
      send(`{"k":${mark}}`);
      mark = marked = 0;
      markedAt = now;
    }
  };
  /** @type {(seconds: any) => void} Newer credentials are sent after 80 % of their life. */
  const renewBefore = (seconds) => {
    renewAt = canRenew && typeof seconds === "number" ? now + seconds * 800 : Infinity;
  };

  // Connections.

  /** @type {(hi: Hi) => void} Send what waits for a connection. */
  const startTraffic = (hi) => {
    rooms = new Set(Object.keys(hi.at));
    if (hi.n != null) {
      handledTo(hi.n);
      nextNumber = Math.max(hi.n, ...unconfirmed.map(({ n }) => n)) + 1;
    } else {
      unconfirmed = unconfirmed.filter(({ isSettled }) => !isSettled);
      for (const item of unconfirmed) item.n = 0;
      nextNumber = 1;
    }
    renewBefore(hi.exp);
    sendMessages();
    sendCalls();
    for (const [room, presence] of presences) {
      endPages(presence);
      if (!presence.isWatched) presences.delete(room);
      else if (rooms.has(room)) ask(room, presence);
    }
  };
  /** End the connection. Calls whose effect may have happened end with it; joins and leaves are sent again. */
  const endLink = () => {
    if (!link) return;
    for (const n of asked) emit("unasked", link.generation, n);
    asked.clear();
    link = null;
    sent = 0;
    renewAt = Infinity;
    const isOver = (/** @type {Call} */ { n, verb }) => n && (verb === "request" || verb === "auth");
    withdraw(isOver, fail("interrupted", "the connection ended before the answer came"));
    for (const call of calls) call.n = 0;
  };
  /** @type {Record<string, (frame: any, link: Link) => void>} What a connection does with a frame. Other kinds are ignored. */
  const HANDLERS = {
    // Positions move before the application is told, because it may end the connection.
    "["([id, log, data, key]) {
      if (!isLog(log)) return;
      if (id) move(log, id);
      if (key && keys.includes(key)) return;
      if (key) keys = [...keys, key].slice(-KEYS);
      emit("message", log, id, data);
    },
    at: moveAll,
    lost: ({ lost }) => lose(lost),
    in({ in: room, at }) {
      move(room, at);
      rooms.add(room);
      emit("room", room, true, null);
      const presence = presences.get(room);
      if (presence?.isWatched) ask(room, presence);
    },
    out({ out: room }) {
      move(room, null);
      rooms.delete(room);
      wanted.delete(room);
      emit("room", room, false, null);
      const presence = presences.get(room);
      if (presence) {
        presence.v = 0;
        presence.members = new Map();
        endPages(presence);
        show(room, presence);
      }
    },
    p: present,
    live(_, link) {
      if (link.liveSince < Infinity || link.awaitsOutcome) return;
      link.liveSince = now;
      for (const room of wanted) { // the server does not know them any more
        if (!rooms.has(room) && !calls.some(({ verb, subject }) => verb === "join" && subject === room)) addShort("join", room);
      }
    },
    re(_, link) {
      link.awaitsOutcome = false;
    },
    t({ t }) {
      heardTo = t;
    },
    ping: () => send("{}"),
    go() {
      if (!attempt) dial();
    },
    a({ a, d = null, x }) {
      const call = calls.find(({ n }) => n === a);
      if (!call) return;
      calls.splice(calls.indexOf(call), 1);
      if (!x) {
        if (call.verb === "join") wanted.add(call.subject);
        if (call.verb === "leave") wanted.delete(call.subject);
        if (call.verb === "auth") renewBefore(d?.exp);
      }
      settle(call, x ? fail(x.code, x.message, 0, x.retry === true) : null, d);
      sendCalls();
    },
    n({ n, x }) {
      if (sent) {
        handledTo(Math.min(n, unconfirmed[sent - 1].n), (item) => x && item.n === n ? fail(x.code, x.message, 0, x.retry === true) : null);
      }
    },
    q({ q, m, d = null }, link) {
      if (asked.has(q)) return;
      if (asked.size >= MAX_OPEN) return send(`{"a":${q},"x":{"code":"limit","message":"too many requests","retry":true}}`);
      asked.add(q);
      emit("asked", link.generation, q, m, d);
    },
    c({ c }, link) {
      if (asked.delete(c)) emit("unasked", link.generation, c);
    },
  };
  /** Kinds of frames that move positions. During a drain they wait for the next socket, which may replay them. */
  const HELD = ["[", "at", "lost", "in", "out", "p"];

  /** @type {(frame: [kind: string, value: any], link: Link) => void} */
  const take = (frame, link) => {
    const [kind, value] = frame;
    if (held && HELD.includes(kind)) {
      held.push(frame);
      if (held.length > maxHeld) giveUp("too many frames came before the next socket was ready");
    } else if (Object.hasOwn(HANDLERS, kind)) {
      HANDLERS[kind](value, link);
    }
  };
  /** Take the held frames: no connection follows that replays them. */
  const release = () => {
    const frames = held ?? [];
    held = null;
    for (const [kind, value] of frames) HANDLERS[kind](value, /** @type {Link} */ (link));
  };

  // Attempts.

  const pause = () => random() * AFTER_LIVE;
  /** @type {(after: number | null) => void} */
  const dialLater = (after) => {
    dialAt = now + (after ?? random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(failures++, 10)));
  };
  /** @type {(reaction: Reaction["do"]) => boolean} A second refusal of credentials in a row is final. */
  const isHopeless = (reaction) => reaction === "renew" ? !canRenew || ++refusals > 1 : reaction === "stop";
  /** @type {Reaction} */
  const RETRY = { do: "retry", after: null, by: "" };

  /** During a drain, the connection goes on beside the attempt. */
  const dial = () => {
    dialAt = Infinity;
    if (link) link.handoverAt = Infinity;
    attempt = { generation: ++generation, deadline: now + ATTEMPT, isDialed: false, isOpen: false, cursor: "", isLater: false };
    if (hasAuth) emit("authorize", generation, false);
    else openSocket(attempt, null);
  };
  /** @type {(attempt: Attempt, token: string | null) => void} Take the cursor. From now on, frames that move positions wait. */
  const openSocket = (attempt, token) => {
    attempt.cursor = cursor();
    let items;
    try {
      [items, attempt.isLater] = offer(attempt.cursor, token, failuresBeforeHi > 0);
    } catch (error) {
      return stop(/** @type {StabilizerError} */ (error));
    }
    attempt.isDialed = true;
    attempt.deadline = now + ATTEMPT;
    if (link) held = [];
    emit("dial", attempt.generation, items);
  };
  const begin = () => {
    isStarted = true;
    isClosed = false;
    error = isOnline = replacedBy = null;
    failures = failuresBeforeHi = refusals = closeCode = 0;
    cause = "";
    dial();
  };
  const abandonAttempt = () => {
    if (attempt) emit("abandon", attempt.generation);
    attempt = replacedBy = null;
    release();
  };
  /** @type {(why: string) => void} */
  const giveUp = (why) => {
    if (attempt) emit("abandon", attempt.generation);
    refused(RETRY, why);
  };
  /** @type {(reaction: Reaction, why: string, code?: number) => void} The attempt ended before `hi`. */
  const refused = (reaction, why, code = BROKEN) => {
    const wasDialed = attempt?.isDialed;
    attempt = replacedBy = null;
    cause = why;
    closeCode = code;
    release();
    if (link) {
      link.handoverAt = now + pause();
      link.mayReplaceItself ||= !!wasDialed;
    } else if (isHopeless(reaction.do)) {
      stop(errorOf(code, why));
    } else {
      failuresBeforeHi += +(reaction.after === null);
      dialLater(reaction.after);
    }
  };
  /** @type {(hi: Hi, found: Attempt) => void} The held frames are replayed, or their logs are lost. */
  const greet = (hi, found) => {
    const by = replacedBy;
    attempt = held = replacedBy = null;
    if (by !== null && by !== hi.sid) {
      emit("close", found.generation);
      return stop(errorOf(REPLACED, ""));
    }
    hangUpLink();
    failuresBeforeHi = refusals = closeCode = 0;
    cause = "";
    clientId = hi.id;
    link = {
      generation: found.generation, silence: hi.ping * 1000 + GRACE, heard: now, probeEnds: Infinity,
      awaitsOutcome: hi.re === "later", liveSince: Infinity, handoverAt: Infinity, mayReplaceItself: false,
    };
    startFrom(hi, !!found.cursor);
    startTraffic(hi);
  };

  // Ends.

  /** @type {(reaction: Reaction, why: string, code?: number, isFault?: boolean) => void} The connection ended. */
  const dropped = (reaction, why, code = BROKEN, isFault = false) => {
    const { mayReplaceItself, liveSince } = /** @type {Link} */ (link);
    cause = why;
    closeCode = code;
    endLink();
    if (code === REPLACED && mayReplaceItself) {
      reaction = RETRY;
    } else if (code === REPLACED && attempt?.isDialed) {
      replacedBy = reaction.by; // perhaps by the attempt: its `hi` will tell
      return;
    }
    if (isHopeless(reaction.do)) return stop(errorOf(code, why));
    if (attempt) return;
    const isSettled = now - liveSince >= SETTLED;
    if (isSettled) failures = 0;
    dialLater(isSettled && !isFault ? reaction.after ?? pause() : reaction.after);
  };
  const abandonLink = (/** @type {string} */ why, isFault = false) => {
    if (link) emit("abandon", link.generation);
    dropped(RETRY, why, BROKEN, isFault);
  };
  /** Ping a server that is silent. Only timestamps count, because timers may be late. */
  const check = (slept = false) => {
    if (!link) return;
    if (now >= link.probeEnds) {
      abandonLink("the server sent nothing, and did not answer a ping");
    } else if (link.probeEnds === Infinity && now >= link.heard + link.silence) {
      link.probeEnds = now + (slept ? PATIENCE_AFTER_SLEEP : PATIENCE);
      send('{"ping":1}');
    }
  };
  /** @type {(code: number, why: string) => StabilizerError} */
  const errorOf = (code, why) =>
    code === UNAUTHORIZED ? fail("unauthorized", `${why}: auth must be a function that gets new credentials`, code)
      : code === REPLACED ? fail("replaced", "a newer connection of this client took the place", code)
      : fail("closed", why, code);
  const hangUpLink = () => {
    if (link) emit("close", link.generation);
    endLink();
  };
  const hangUp = () => {
    dialAt = Infinity;
    abandonAttempt();
    hangUpLink();
  };
  /** @type {(why: StabilizerError) => void} */
  const stop = (why) => {
    hangUp();
    isClosed = true;
    error = why === closedByApplication ? null : why;
    cause = why.message;
    withdraw(() => true, why);
    for (const item of unconfirmed) confirm(item, why);
    unconfirmed = [];
  };
  const isRunning = () => isStarted && !isClosed;

  // Times.

  const timerAt = () =>
    Math.min(
      dialAt, renewAt, link && mark ? markedAt + MARK_INTERVAL : Infinity, attempt ? attempt.deadline : Infinity,
      link ? Math.min(link.probeEnds < Infinity ? link.probeEnds : link.heard + link.silence, link.handoverAt) : Infinity,
      ...[...calls, ...unconfirmed.filter(({ isSettled }) => !isSettled)].map(({ deadline }) => deadline),
    );
  const tick = (slept = now - timerAt() > LATE) => {
    if (attempt && now >= attempt.deadline) {
      giveUp(`${attempt.isOpen ? "hi" : attempt.isDialed ? "a socket" : "a token"} did not come in ${ATTEMPT} ms`);
    }
    check(slept);
    if (now >= dialAt || (link && !attempt && now >= link.handoverAt)) dial();
    withdraw(({ deadline }) => deadline <= now, fail("timeout", "no answer in time"));
    for (const item of unconfirmed) if (item.deadline <= now) confirm(item, fail("timeout", "no confirmation in time"));
    dropSettled();
    sendMark();
    if (now >= renewAt && link) {
      renewAt = Infinity;
      emit("authorize", link.generation, true);
    }
  };

  /** @type {<A extends any[]>(handle: (...parameters: A) => unknown) => (time: number, ...parameters: A) => Action[]} */
  const event = (handle) => (time, ...parameters) => {
    now = time;
    handle(...parameters);
    const to = status();
    if (to !== told) {
      const retryIn = dialAt < Infinity ? Math.max(0, dialAt - now) : null;
      emit("status", { from: told, to, cause, closeCode, attempt: failures, retryIn, error });
      told = to;
    }
    const found = actions;
    actions = [];
    return found;
  };
  /** @type {<A extends any[]>(handle: (...parameters: A) => void) => (time: number, ...parameters: A) => Action[]} It throws a StabilizerError if it cannot even begin. */
  const call = (handle) =>
    event((...parameters) => {
      if (isClosed) throw error ?? closedByApplication;
      check();
      handle(...parameters);
    });

  return {
    status,
    cursor,
    timerAt,
    rooms: () => rooms,
    /** The id that the server has given this client, "" before the first connection. */
    clientId: () => clientId,
    /** Why the client has ended, if the application has not closed it. */
    error: () => error,
    /** A text from which a later page continues, "" before the first connection. */
    save: () => sessions.length ? `[${cursor()},${JSON.stringify(keys)}]` : "",

    // The system, and what the application wants.

    start: event(() => isRunning() || begin()),
    /** Drop the connection, and connect at once. */
    reconnect: event(() => {
      if (isRunning()) hangUp();
      begin();
    }),
    close: event(() => {
      if (!isRunning()) return;
      sendMark(true);
      stop(closedByApplication);
    }),
    /** The system has no network: close the socket, and try nothing. */
    offline: event(() => {
      if (isOnline !== false && isRunning()) {
        hangUp();
        cause = "the system has no network";
      }
      isOnline = false;
    }),
    /** The system has a network: dial at once, also if a dial is under way. */
    online: event(() => {
      const wasOnline = isOnline;
      isOnline = true;
      if (wasOnline || !isRunning()) return;
      if (link) return check(true);
      abandonAttempt();
      dial();
    }),
    /** The page may not run for long: close the socket, and keep the cursor. */
    hide: event(() => {
      sendMark(true);
      if (isRunning()) hangUp();
    }),
    /** The page runs again: dial at once. */
    show: event(() => {
      if (isRunning() && !link && !attempt && isOnline !== false) dial();
    }),
    /** Tell the server at once what was handled. */
    flush: event(() => sendMark(true)),
    /** Check all times, because the system may have slept. */
    wake: event(() => tick(true)),
    /** Do what is due. It may be called at any time. */
    timer: event(() => tick()),

    // Credentials and sockets.

    authorized: event((/** @type {number} */ of, /** @type {string | null} */ token) => {
      if (attempt?.generation === of && !attempt.isDialed) openSocket(attempt, token);
    }),
    unauthorized: event((/** @type {number} */ of, /** @type {string} */ why) => {
      if (attempt?.generation === of) refused(RETRY, why);
    }),
    renew: event((/** @type {number} */ of, /** @type {string} */ token) => {
      if (link?.generation === of) addShort("auth", token);
    }),
    opened: event((/** @type {number} */ of, /** @type {string} */ subprotocol) => {
      if (attempt?.generation !== of) return emit("abandon", of);
      if (subprotocol !== SUBPROTOCOL) {
        return stop(fail("incompatible", `the server selected ${subprotocol || "no subprotocol"} instead of ${SUBPROTOCOL}: use an endpoint of the library, and upgrade all replicas first`));
      }
      attempt.isOpen = true;
      if (attempt.isLater) emit("send", of, `{"resume":${attempt.cursor}}`);
    }),
    /** With 1006 if it could not be opened. */
    closed: event((/** @type {number} */ of, /** @type {number} */ code, /** @type {string} */ reason) => {
      const reaction = react(code, reason, sessions), why = `close code ${code}${reason && `: ${reason}`}`;
      if (attempt?.generation === of) refused(reaction, attempt.isOpen || code !== BROKEN ? why : "no connection", code);
      else if (link?.generation === of) dropped(reaction, why, code);
    }),
    frame: event((/** @type {number} */ of, /** @type {string | ArrayBuffer} */ data) => {
      const first = attempt?.generation === of && attempt.isOpen ? attempt : null;
      if (!first && link?.generation !== of) return;
      try {
        const frame = read(data), [kind, value] = frame;
        if (link && !first) {
          link.heard = now;
          link.probeEnds = Infinity;
          take(frame, link);
        } else if (kind !== "hi") {
          giveUp(`the first frame is not hi: ${kind}`);
        } else if (value.hi.v !== 1) {
          stop(fail("incompatible", `the server speaks version ${value.hi.v} of ${SUBPROTOCOL}: upgrade the client`));
        } else if (first) {
          greet(value.hi, first);
        }
      } catch (error) {
        const why = /** @type {Error} */ (error).message;
        if (first) giveUp(why);
        else abandonLink(why, true);
      }
    }),

    // Calls of the application.

    send: call((/** @type {any} */ data) => {
      const encoded = encode(data, maxMessageBytes);
      if (!link) throw fail("not-connected", "no connection is open: wait for it, or send with confirm", 0, true);
      send(message(encoded));
    }),
    /** Send until it is confirmed, also on the next connections. */
    confirm: call((/** @type {unknown} */ key, /** @type {any} */ content, /** @type {number} */ deadline) => {
      const data = encode(content, maxMessageBytes), size = sizeOf(data);
      const bytes = unconfirmed.reduce((sum, item) => sum + item.size, size);
      if (unconfirmed.length >= maxUnconfirmed || bytes > maxUnconfirmedBytes || nextNumber > LAST_NUMBER) {
        throw fail("limit", `more than maxUnconfirmed=${maxUnconfirmed} or maxUnconfirmedBytes=${maxUnconfirmedBytes} are unconfirmed`, 0, true);
      }
      unconfirmed.push({ key, data, size, deadline, n: 0, isSettled: false });
      sendMessages();
    }),
    request: call((/** @type {unknown} */ key, /** @type {string} */ name, /** @type {any} */ content, /** @type {number} */ deadline) => {
      const data = encode(content, maxMessageBytes);
      if (typeof data !== "string") throw fail("invalid", "the data of a request is JSON, not bytes");
      add(key, "request", name, `"m":${requestName(name)},"d":${data}`, deadline);
    }),
    /** Join or leave a room. */
    move: call((/** @type {unknown} */ key, /** @type {"join" | "leave"} */ verb, /** @type {string} */ room, /** @type {number} */ deadline) => {
      roomName(room);
      addShort(verb, room, key, deadline);
      if (verb === "leave") wanted.delete(room);
    }),
    /** Forget a call or a message. It may be carried out all the same. */
    cancel: event((/** @type {unknown} */ key) => {
      withdraw((call) => call.key === key);
      for (const item of unconfirmed) item.isSettled ||= item.key === key;
      dropSettled();
    }),
    /** Answer a request of the server, if it still waits. */
    answer: event((/** @type {number} */ of, /** @type {number} */ n, /** @type {any} */ content, /** @type {Failure | null} */ failure) => {
      if (link?.generation !== of || !asked.has(n)) return;
      const data = failure
        ? `"x":${JSON.stringify({ code: failure.code.slice(0, 128), message: failure.message.slice(0, 1024), retry: !!failure.retry })}`
        : `"d":${encode(content, maxMessageBytes)}`;
      asked.delete(n);
      send(`{"a":${n},${data}}`);
    }),
    /** The application has handled a message of the mailbox. */
    handled: event((/** @type {number} */ id) => {
      mark = id;
      marked++;
      sendMark();
    }),
    watch: event((/** @type {string} */ room) => {
      roomName(room);
      const known = presences.get(room);
      const presence = known ?? { v: 0, isWatched: false, members: new Map(), pages: new Map(), pagesOf: -Infinity, asked: -Infinity };
      const wasWatched = presence.isWatched;
      presence.isWatched = true;
      presences.set(room, presence);
      if (presence.v) show(room, presence);
      if (rooms.has(room) && !wasWatched) ask(room, presence);
    }),
    unwatch: event((/** @type {string} */ room) => {
      const presence = presences.get(room);
      if (!presence?.isWatched) return;
      presence.isWatched = false;
      if (rooms.has(room)) send(`{"p":${JSON.stringify(room)},"v":null}`);
    }),
  };
}
