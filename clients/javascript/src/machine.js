// The machine of a client: events in, actions out. It has no socket, no clock and no chance of its own. Times are
// milliseconds of a clock that does not go back. It may be called while earlier actions are carried out; its actions
// then follow behind the earlier ones.
//
// Its state is variables instead of objects, and what it shares with the shell alone begins with "_", because the build
// shortens both.

import { StabilizerError } from "./errors.js";
import { demand, encode, isLog, message, read, sizeOf, utf8 } from "./frames.js";
import { AFTER_LIVE, ANSWERED, ASKED_AGAIN, ATTEMPT, AUTHORIZING, BROKEN, DIALED, FIRST_DELAY, GRACE, KEYS, LATE, LONGEST_DELAY, LONGEST_HINT, MARK_EVERY, MARK_INTERVAL, MAX_OPEN, MAX_WAITING, OPEN, PATIENCE, PATIENCE_AFTER_SLEEP, REPLACED, SETTLED, UNAUTHORIZED } from "./numbers.js";

const SUBPROTOCOL = "stabilizer.v1", NEVER = Infinity;

/** @typedef {import("./frames.js").Failure} Failure */
/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./frames.js").Hi} Hi */
/** @typedef {import("./frames.js").Log} Log */
/** @typedef {import("./frames.js").LostLog} LostLog */
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
 * What the machine decides. Sockets have numbers, called generations. Events of former ones change nothing.
 *
 * @typedef {object} Effects
 * @property {(generation: number, isRenewal: boolean) => unknown} _authorize
 * @property {(generation: number, items: string[]) => unknown} _dial
 * @property {(generation: number, frame: Frame) => unknown} _send
 * @property {(generation: number) => unknown} _close Close a socket, and wait for no event of it.
 * @property {(log: Log, id: number, data: any) => unknown} _message
 * @property {(log: Log, top: number, code: string) => unknown} _lost
 * @property {(key: any, error: StabilizerError | null, value: any) => unknown} _settle
 * @property {(generation: number, n: number, name: string, data: any) => unknown} _asked
 * @property {(generation: number, n: number) => unknown} _unasked
 * @property {(room: string, isMember: boolean, error: StabilizerError | null) => unknown} _room
 * @property {(room: string, members: Map<string, any>) => unknown} _presence
 * @property {(change: StatusChange) => unknown} _status
 */
/** @typedef {[effect: (...parameters: any) => unknown, ...parameters: any]} Action An effect and what it is called with. */

/** @typedef {{ do: "retry" | "renew" | "stop" | "ignore", after: number | null, by: string }} Reaction */
/**
 * What waits for an answer: a request, a join, a leave, newer credentials, or a message that is to be confirmed: its verb
 * is "". Without a key it is the client's own, or nobody waits for it. `n` is its number, 0 before it is sent for the
 * first time.
 *
 * @typedef {{ key: any, verb: "q" | "join" | "leave" | "auth" | "", subject: string, ends: number, write: (n: number) => Frame,
 *   size: number, n: number, isSent: boolean, isRepeated: boolean }} Call
 */
/** @typedef {{ v: number, isWatched: boolean, members: Map<string, any>, pages: Map<string, any>, pagesOf: number, asked: number }} Presence */

/**
 * @typedef {object} Options
 * @property {() => number} _random Numbers from 0 up to 1.
 * @property {boolean} [_hasAuth] Each attempt begins with getting credentials.
 * @property {boolean} [_canRenew] Newer credentials can be had.
 * @property {string | null} [_saved] What an earlier page has saved.
 * @property {number} [_maxHeld] Frames of the old socket that wait until the next socket is ready.
 * @property {number} [maxMessageBytes] Longest message or request that is sent.
 * @property {number} [maxUnconfirmed] Messages that are kept until they are confirmed.
 * @property {number} [maxUnconfirmedBytes] Their data in bytes.
 */

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
  const mayReturn = code < 2000 ? ![1003, 1007, 1008, 1009].includes(code) : code >= 3000 && code % 1000 < 500 && code < 5000;
  return {
    do: code === REPLACED && own.includes(by) ? "ignore" : code === UNAUTHORIZED ? "renew" : mayReturn ? "retry" : "stop",
    after: [1012, 1013, 4029].includes(code) && typeof hint === "number" && hint >= 0 ? Math.min(hint, LONGEST_HINT) : null,
    by,
  };
}

/** @type {(text: string) => string} UTF-8 in base64url without padding: a browser refuses "=". */
const coded = (text) =>
  btoa(String.fromCharCode(...utf8(text))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/**
 * The items of `Sec-WebSocket-Protocol`, and whether the cursor must be the first frame.
 *
 * @param {string} cursor "" for none
 * @param {string | null} token
 * @param {boolean} later
 * @returns {[items: string[], isLater: boolean]}
 */
export function offer(cursor, token, later) {
  const items = [SUBPROTOCOL], size = () => `${items}`.length + items.length - 1, limit = 4096;
  if (token !== null) items.push(`${SUBPROTOCOL}.auth.${coded(token)}`);
  if (cursor) {
    const at = items.push(`${SUBPROTOCOL}.resume.`) - 1;
    later ||= size() + Math.ceil(sizeOf(cursor) * 4 / 3) > limit;
    items[at] += later ? "later" : coded(cursor);
  }
  demand(size() <= limit, `a header of ${size()} bytes is longer than ${limit}: use a cookie or a ticket`, "closed");
  return [items, !!cursor && later];
}

/**
 * @param {Effects} effects
 * @param {Options} options
 */
export function createMachine(effects, {
  _random, _hasAuth = false, _canRenew = _hasAuth, _saved = null, _maxHeld = 10_000, maxMessageBytes = 1_000_000,
  maxUnconfirmed = 1_000, maxUnconfirmedBytes = 1_048_576, ...unknown
}) {
  for (const name in unknown) demand(0, `no option ${name}`);
  /** The time of the event that is handled. */
  let now = 0;
  /** @type {Action[]} */
  let actions = [];
  /** @type {<A extends any[]>(effect: (...parameters: A) => unknown, ...parameters: A) => void} */
  const emit = (...action) => void actions.push(action);

  /** @type {"idle" | "" | "closed"} "" while it runs. */
  let rest = "idle";
  let dialAt = NEVER;
  /** Whether the system has a network: 1, or -1 if not. 0: an attempt will show. */
  let network = 0;
  let failures = 0, failuresBeforeHi = 0, refusals = 0;
  let clientId = "", cause = "", closeCode = 0;
  /** @type {StabilizerError | null} */
  let error = null;
  /** @type {Status} */
  let told = "idle";

  // A connection before `hi`. `attempt` is its generation, 0 without one.

  let generation = 0, attempt = 0, attemptEnds = NEVER, stage = AUTHORIZING, attemptCursor = "", isLater = false;
  /** @type {[kind: string, value: any][] | null} Frames of the old socket while an attempt is under way. */
  let held = null;
  /** @type {string | null} The session that has replaced the old socket while an attempt is under way. */
  let replacedBy = null;

  // A connection after `hi`. `link` is its generation, 0 without one.

  let link = 0, silence = 0, silentAt = NEVER, probeEnds = NEVER, awaitsOutcome = false, liveSince = NEVER;
  let handoverAt = NEVER, renewAt = NEVER;
  /** An attempt beside it has failed. Its session is unknown, and may yet take the place of this connection. */
  let mayReplaceItself = false;

  const fail = (/** @type {string} */ code, /** @type {string} */ text, closeCode = 0, retry = false) =>
    new StabilizerError(code, text, { closeCode, retry });
  /** @type {(x: Failure | null | undefined) => StabilizerError | null} */
  const failed = (x) => x ? fail(x.code, x.message, 0, x.retry === true) : null;
  const closedByApplication = fail("closed", "closed by the application");

  /** @type {() => Status} */
  const status = () =>
    rest ? rest
      : link ? liveSince < NEVER ? "live" : "catching-up"
      : attempt ? "connecting"
      : network < 0 ? "offline" : "waiting";

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
  /** @type {(value: Positions) => [log: Log, id: number | null | undefined][]} */
  const named = ({ at, all, box }) => [...Object.entries(at), [1, all], [0, box]];
  /** @type {(value: Positions) => void} */
  const moveAll = (value) => {
    for (const [log, id] of named(value)) if (id !== undefined) move(log, id);
  };
  /** @type {(rows: LostLog[]) => void} Rows of logs that a later release has are left out. */
  const lose = (rows) => {
    for (const [log, top, code] of rows) {
      if (isLog(log)) {
        move(log, top);
        emit(effects._lost, log, top, code);
      }
    }
  };
  const cursor = () =>
    sessions[0] === undefined ? "" : JSON.stringify({
      s: sessions.at(-1), t: heardTo, at: Object.fromEntries([...positions].filter(([log]) => `${log}` === log)),
      all: positions.get(1), box: positions.get(0),
    });
  try {
    const [{ s, t, ...rest }, known] = JSON.parse(_saved ?? "");
    keys = [...known];
    moveAll(rest);
    sessions = [s];
    heardTo = t;
  } catch {
    // nothing was saved, or by another release
  }

  // Calls. Each has one outcome: `_settle`, or `_cancel`.

  /** @type {Call[]} In their order, those that wait and those in flight. */
  let calls = [];
  let lastNumber = 0, nextMessage = 1;
  /** @type {Set<string>} */
  let rooms = new Set();
  /** @type {Set<string>} Rooms that the application joined by itself. */
  const wanted = new Set();
  /** @type {Set<number>} Requests of the server without an answer. */
  const asked = new Set();

  /** @type {(frame: Frame) => void} */
  const send = (frame) => {
    if (link) emit(effects._send, link, frame);
  };
  /** @type {(call: Call, why?: StabilizerError | null, value?: any) => void} */
  const settle = ({ key, verb, subject }, why = null, value = null) => {
    if (key) emit(effects._settle, key, why, value);
    else if (verb === "join" && why) {
      wanted.delete(subject);
      emit(effects._room, subject, false, why);
    }
  };
  const flush = () => {
    let open = calls.filter(({ verb, isSent }) => verb && isSent).length;
    for (const call of calls) {
      if (link && !call.isSent && (!call.verb || open++ < MAX_OPEN)) {
        call.isSent = true;
        call.isRepeated = !!call.n;
        call.n = call.verb ? ++lastNumber : call.n || nextMessage++;
        send(call.write(call.n));
      }
    }
  };
  /** @type {(key: any, verb: Call["verb"], subject: string, timeout: number, write: (n: number) => Frame, size?: number) => void} */
  const add = (key, verb, subject, timeout, write, size = 0) => {
    if (verb && calls.filter(({ verb, isSent }) => verb && !isSent).length >= MAX_WAITING) throw fail("limit", `${MAX_WAITING} requests wait`, 0, true);
    calls.push({ key, verb, subject, ends: now + timeout, write, size, n: 0, isSent: false, isRepeated: false });
    flush();
  };
  /** @type {(verb: "join" | "leave" | "auth", subject: string, key?: any, timeout?: number) => void} */
  const addShort = (verb, subject, key, timeout = ANSWERED) =>
    add(key, verb, subject, timeout, (n) => `{"${verb}":${JSON.stringify(subject)},"q":${n}}`);
  /** @type {(fits: (call: Call) => unknown, why?: StabilizerError) => void} End calls, and tell the server to stop. */
  const withdraw = (fits, why) => {
    calls = calls.filter((call) => {
      if (!fits(call)) return true;
      if (call.verb && call.isSent) send(`{"c":${call.n}}`);
      if (why) settle(call, why);
      call.key = null;
      call.ends = NEVER;
      return !call.verb && call.n; // the numbers of messages have no gaps
    });
    flush();
  };
  /** @type {(call: Call, why?: StabilizerError | null, value?: any) => void} */
  const finish = (call, why, value) => {
    calls.splice(calls.indexOf(call), 1);
    settle(call, why, value);
  };
  /** @type {(number: number, x?: Failure | null) => void} The server has handled messages. */
  const handledTo = (number, x) => {
    for (const call of calls.filter(({ verb, n }) => !verb && n && n <= number)) finish(call, call.n === number ? failed(x) : null);
  };
  /** @type {(content: any) => string} */
  const json = (content) => {
    const data = encode(content, maxMessageBytes);
    demand(typeof data === "string", "a request is JSON, not bytes");
    return data;
  };
  /** @type {(room: string) => void} */
  const checkRoom = (room) => {
    demand(
      typeof room === "string" && room && sizeOf(room) <= 512 && encode(room) && !/\p{Cc}/u.test(room),
      `no room "${room}": 1 to 512 bytes, without control characters`,
    );
  };

  // Presence of rooms, and marks of the mailbox.

  /** @type {Map<string, Presence>} */
  const presences = new Map();
  let mark = 0, marked = 0, markedAt = -NEVER;

  const ask = (/** @type {string} */ room, presence = presences.get(room)) => {
    if (presence?.isWatched && rooms.has(room)) {
      presence.asked = now;
      send(`{"p":${JSON.stringify(room)},"v":${presence.v}}`);
    }
  };
  /** @type {(presence: Presence) => void} No other page of the snapshot comes. */
  const endPages = (presence) => {
    presence.pages = new Map();
    presence.pagesOf = presence.asked = -NEVER;
  };
  /** @type {(room: string, presence: Presence) => void} */
  const show = (room, { isWatched, members }) => {
    if (isWatched) emit(effects._presence, room, new Map(members));
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
    renewAt = _canRenew && seconds > 0 ? now + seconds * 800 : NEVER;
  };

  // Connections.

  /** End the connection. Calls whose effect may have happened end with it; joins and leaves are sent again. */
  const endLink = () => {
    if (link) emit(effects._close, link);
    for (const n of asked) emit(effects._unasked, link, n);
    asked.clear();
    link = 0;
    silentAt = probeEnds = handoverAt = renewAt = NEVER;
    withdraw(({ isSent, verb }) => isSent && (verb === "q" || verb === "auth"), fail("interrupted", "the connection ended before the answer"));
    for (const call of calls) call.isSent = false;
  };
  /** @type {Record<string, (frame: any) => void>} What a connection does with a frame. Other kinds are ignored. */
  const HANDLERS = {
    // @ts-expect-error: without inherited keys, since a later kind may be called "constructor"
    __proto__: null,
    "["([id, log, data, key]) {
      if (!isLog(log)) return;
      if (id) move(log, id);
      if (key && keys.includes(key)) return;
      if (key) keys = [...keys, key].slice(-KEYS);
      emit(effects._message, log, id, data);
    },
    at: moveAll,
    lost: ({ lost }) => lose(lost),
    in({ in: room, at }) {
      move(room, at);
      rooms.add(room);
      emit(effects._room, room, true, null);
      ask(room);
    },
    out({ out: room }) {
      move(room, null);
      rooms.delete(room);
      wanted.delete(room);
      emit(effects._room, room, false, null);
      const presence = presences.get(room);
      if (presence) {
        presence.v = 0;
        presence.members = new Map();
        endPages(presence);
        show(room, presence);
      }
    },
    p({ p: room, v, from = v - 1, more, "=": page, "+": arrived, "-": gone }) {
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
        if (now - presence.asked >= ASKED_AGAIN) ask(room);
        return;
      } else {
        for (const id of gone ?? []) presence.members.delete(id);
        for (const [id, metadata] of arrived ?? []) presence.members.set(id, metadata);
        presence.asked = -NEVER;
      }
      presence.v = v;
      show(room, presence);
    },
    live() {
      if (liveSince < NEVER || awaitsOutcome) return;
      liveSince = now;
      for (const room of wanted) if (!rooms.has(room)) addShort("join", room); // the server does not know it any more
    },
    re() {
      awaitsOutcome = false;
    },
    t({ t }) {
      heardTo = t;
    },
    ping: () => send("{}"),
    go() {
      if (!attempt) dial();
    },
    a({ a, d = null, x }) {
      const call = calls.find(({ verb, n, isSent }) => verb && isSent && n === a);
      if (!call) return;
      const { verb, subject } = call;
      if (verb === "leave" && call.isRepeated && x?.code === "not_found") x = null; // the former connection has left it
      if (!x) {
        if (verb === "join") wanted.add(subject);
        if (verb === "leave") wanted.delete(subject);
        if (verb === "auth") renewBefore(d?.exp);
      }
      finish(call, failed(x), d);
      flush();
    },
    n: ({ n, x }) => handledTo(n, x),
    q({ q, m, d = null }) {
      if (asked.has(q)) return;
      if (asked.size >= MAX_OPEN) return send(`{"a":${q},"x":{"code":"limit","message":"too many requests","retry":true}}`);
      asked.add(q);
      emit(effects._asked, link, q, m, d);
    },
    c({ c }) {
      if (asked.delete(c)) emit(effects._unasked, link, c);
    },
  };
  /** Kinds of frames that move positions. During a drain they wait for the next socket, which may replay them. */
  const HELD = ["[", "at", "lost", "in", "out", "p"];
  /** Take the held frames: no connection follows that replays them. */
  const release = () => {
    const frames = held ?? [];
    held = null;
    for (const [kind, value] of frames) HANDLERS[kind](value);
  };

  // Attempts.

  const pause = () => _random() * AFTER_LIVE;
  /** @type {(after: number | null) => void} */
  const dialLater = (after) => {
    dialAt = now + (after ?? _random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures++));
  };
  /** @type {(reaction: Reaction["do"]) => boolean | void} Stop if no other attempt may follow, as after a second refusal of credentials in a row. */
  const stops = (reaction) => {
    if (reaction === "renew" ? !_canRenew || ++refusals > 1 : reaction === "stop") {
      stop(errorOf(closeCode, cause));
      return true;
    }
  };

  /** During a drain, the connection goes on beside the attempt. */
  const dial = () => {
    dialAt = handoverAt = NEVER;
    attempt = ++generation;
    attemptEnds = now + ATTEMPT;
    stage = AUTHORIZING;
    if (_hasAuth) emit(effects._authorize, attempt, false);
    else openSocket(null);
  };
  /** @type {(token: string | null) => void} Take the cursor. From now on, frames that move positions wait. */
  const openSocket = (token) => {
    attemptCursor = cursor();
    let items;
    try {
      [items, isLater] = offer(attemptCursor, token, failuresBeforeHi > 0);
    } catch (error) {
      return stop(/** @type {StabilizerError} */ (error));
    }
    stage = DIALED;
    attemptEnds = now + ATTEMPT;
    if (link) held = [];
    emit(effects._dial, attempt, items);
  };
  const begin = () => {
    rest = cause = "";
    error = null;
    network = failures = failuresBeforeHi = refusals = closeCode = 0;
    dial();
  };
  const endAttempt = () => {
    if (attempt) emit(effects._close, attempt);
    attempt = 0;
    attemptEnds = NEVER;
    replacedBy = null;
    release();
  };
  /** @type {(why: string, code?: number, reason?: string) => void} The attempt ended before `hi`. */
  const refused = (why, code = BROKEN, reason = "") => {
    const { do: reaction, after } = react(code, reason, sessions);
    cause = why;
    closeCode = code;
    endAttempt();
    if (link) {
      handoverAt = now + pause();
      mayReplaceItself ||= stage > AUTHORIZING;
    } else if (!stops(reaction)) {
      failuresBeforeHi += +(after === null);
      dialLater(after);
    }
  };
  /** @type {(hi: Hi) => void} The held frames are replayed, or their logs are lost. */
  const greet = (hi) => {
    held = null;
    if (replacedBy !== null && replacedBy !== hi.sid) return stop(errorOf(REPLACED, ""));
    const of = attempt;
    attempt = 0;
    endAttempt();
    endLink();
    failuresBeforeHi = refusals = closeCode = 0;
    cause = "";
    clientId = hi.id;
    link = of;
    silence = hi.ping * 1000 + GRACE;
    silentAt = now + silence;
    awaitsOutcome = hi.re === "later";
    liveSince = NEVER;
    mayReplaceItself = false;

    // Replace the positions, and tell which logs lost continuity.
    const lost = [...hi.lost ?? []];
    for (const [log, id] of named(hi)) {
      const isCursorGone = attemptCursor && hi.re == null; // it was removed on the way
      if (isCursorGone && id != null && (positions.get(log) ?? id) !== id && !lost.some((row) => row[0] === log)) lost.push([log, id, "unknown"]);
      move(log, id);
    }
    sessions = [...sessions, hi.sid].slice(-16);
    heardTo = hi.t;
    lose(lost);

    // Send what waits for a connection.
    rooms = new Set(Object.keys(hi.at));
    if (hi.n == null) {
      calls = calls.filter(({ verb, key }) => verb || key);
      for (const call of calls) if (!call.verb) call.n = 0;
      nextMessage = 1;
    } else {
      handledTo(hi.n);
      nextMessage = Math.max(hi.n, ...calls.map(({ verb, n }) => verb ? 0 : n)) + 1;
    }
    renewBefore(hi.exp);
    flush();
    for (const [room, presence] of presences) {
      endPages(presence);
      if (presence.isWatched) ask(room);
      else presences.delete(room);
    }
  };

  // Ends.

  /** @type {(why: string, isFault?: boolean, code?: number, reason?: string) => void} The connection ended. */
  const dropped = (why, isFault = false, code = BROKEN, reason = "") => {
    const isReplaced = code === REPLACED && !mayReplaceItself;
    const { do: reaction, after, by } = react(code === REPLACED && mayReplaceItself ? BROKEN : code, reason, sessions);
    cause = why;
    closeCode = code;
    endLink();
    if (isReplaced && attempt && stage > AUTHORIZING) {
      replacedBy = by; // perhaps by the attempt: its `hi` will tell
    } else if (!stops(reaction) && !attempt) {
      const isSettled = now - liveSince >= SETTLED;
      if (isSettled) failures = 0;
      dialLater(isSettled && !isFault ? after ?? pause() : after);
    }
  };
  /** Ping a server that is silent. Only timestamps count, because timers may be late. */
  const check = (slept = false) => {
    if (now >= probeEnds) {
      dropped("no answer to a ping");
    } else if (now >= silentAt) {
      silentAt = NEVER;
      probeEnds = now + (slept ? PATIENCE_AFTER_SLEEP : PATIENCE);
      send('{"ping":1}');
    }
  };
  /** @type {(code: number, why: string) => StabilizerError} */
  const errorOf = (code, why) =>
    code === UNAUTHORIZED ? fail("unauthorized", `${why}: auth must get new credentials`, code)
      : code === REPLACED ? fail("replaced", "replaced by a newer connection of this client", code)
      : fail("closed", why, code);
  const hangUp = () => {
    dialAt = NEVER;
    endAttempt();
    endLink();
  };
  /** @type {(why: StabilizerError) => void} */
  const stop = (why) => {
    hangUp();
    rest = "closed";
    error = why === closedByApplication ? null : why;
    cause = why.message;
    withdraw(() => true, why);
    calls = [];
  };

  // Times.

  const timerAt = () =>
    Math.min(dialAt, attemptEnds, silentAt, probeEnds, handoverAt, renewAt, link && mark ? markedAt + MARK_INTERVAL : NEVER, ...calls.map(({ ends }) => ends));
  const tick = (slept = now - timerAt() > LATE) => {
    if (now >= attemptEnds) refused(`no ${["token", "socket", "hi"][stage]} in ${ATTEMPT} ms`);
    check(slept);
    if (now >= dialAt || (!attempt && now >= handoverAt)) dial();
    withdraw(({ ends }) => ends <= now, fail("timeout", "no answer in time"));
    sendMark();
    if (now >= renewAt) {
      renewAt = now + ATTEMPT; // if this one fails
      emit(effects._authorize, link, true);
    }
  };

  /** Begin a call of the application. */
  const allow = () => {
    if (rest === "closed") throw error ?? closedByApplication;
    check();
  };

  return {
    /** @type {<A extends any[]>(time: number, event: (...parameters: A) => unknown, ...parameters: A) => Action[]} Handle an event. A call throws a StabilizerError if it cannot even begin. */
    _handle(time, event, ...parameters) {
      now = time;
      event(...parameters);
      const to = status();
      if (to !== told) {
        const retryIn = dialAt < NEVER ? Math.max(0, dialAt - now) : null;
        emit(effects._status, { from: told, to, cause, closeCode, attempt: failures, retryIn, error });
        told = to;
      }
      const found = actions;
      actions = [];
      return found;
    },
    _now: status,
    _cursor: cursor,
    _timerAt: timerAt,
    _rooms: () => rooms,
    /** The id that the server has given this client, "" before the first connection. */
    _clientId: () => clientId,
    /** Why the client has ended, if the application has not closed it. */
    _error: () => error,
    /** A text from which a later page continues, "" before the first connection. */
    _save: () => sessions.length ? `[${cursor()},${JSON.stringify(keys)}]` : "",

    // The system, and what the application wants.

    _start: () => rest && begin(),
    /** Drop the connection, and connect at once. */
    _reconnect() {
      hangUp();
      begin();
    },
    _end() {
      if (rest === "closed") return;
      sendMark(true);
      stop(closedByApplication);
    },
    /** The system has no network: close the socket, and try nothing. */
    _offline() {
      if (network >= 0 && !rest) {
        hangUp();
        cause = "no network";
      }
      network = -1;
    },
    /** The system has a network: dial at once, also if a dial is under way. */
    _online() {
      const wasOnline = network > 0;
      network = 1;
      if (wasOnline || rest) return;
      if (link) return check(true);
      endAttempt();
      dial();
    },
    /** The page may not run for long: close the socket, and keep the cursor. */
    _hide() {
      sendMark(true);
      hangUp();
    },
    /** The page runs again: dial at once. */
    _show() {
      if (!rest && !link && !attempt && network >= 0) dial();
    },
    /** Check all times, because the system may have slept or may be about to, and tell the server what was handled. */
    _wake() {
      sendMark(true);
      tick(true);
    },
    /** Do what is due. It may be called at any time. */
    _timer: () => tick(),

    // Credentials and sockets.

    _authorized(/** @type {number} */ of, /** @type {string | null} */ token) {
      if (attempt === of && stage === AUTHORIZING) openSocket(token);
    },
    _unauthorized(/** @type {number} */ of, /** @type {string} */ why) {
      if (attempt === of) refused(why);
    },
    _renew(/** @type {number} */ of, /** @type {string} */ token) {
      if (link === of) addShort("auth", token);
    },
    _opened(/** @type {number} */ of, /** @type {string} */ subprotocol) {
      if (attempt !== of) return emit(effects._close, of);
      if (subprotocol !== SUBPROTOCOL) {
        return stop(fail("incompatible", `the server selected "${subprotocol}", not ${SUBPROTOCOL}: upgrade all replicas first`));
      }
      stage = OPEN;
      if (isLater) emit(effects._send, of, `{"resume":${attemptCursor}}`);
    },
    /** With 1006 if it could not be opened. */
    _closed(/** @type {number} */ of, /** @type {number} */ code, /** @type {string} */ reason) {
      const why = `close code ${code}${reason && `: ${reason}`}`;
      if (attempt === of) refused(stage === OPEN || code !== BROKEN ? why : "no connection", code, reason);
      else if (link === of) dropped(why, false, code, reason);
    },
    _frame(/** @type {number} */ of, /** @type {string | ArrayBuffer} */ data) {
      const isFirst = attempt === of && stage === OPEN;
      if (!isFirst && link !== of) return;
      try {
        const frame = read(data), [kind, value] = frame;
        if (!isFirst) {
          silentAt = now + silence;
          probeEnds = NEVER;
          if (held && HELD.includes(kind)) {
            if (held.push(frame) > _maxHeld) refused("too many frames came before hi");
          } else {
            HANDLERS[kind]?.(value);
          }
        } else if (kind !== "hi") {
          refused(`${kind} came before hi`);
        } else if (value.hi.v !== 1) {
          stop(fail("incompatible", `the server has version ${value.hi.v} of ${SUBPROTOCOL}: upgrade the client`));
        } else {
          greet(value.hi);
        }
      } catch (error) {
        const why = /** @type {Error} */ (error).message;
        if (isFirst) refused(why);
        else dropped(why, true);
      }
    },

    // Calls of the application.

    _transmit(/** @type {any} */ data) {
      allow();
      const encoded = encode(data, maxMessageBytes);
      if (!link) throw fail("not-connected", "no connection: wait for it, or send with confirm", 0, true);
      send(message(encoded));
    },
    /** Send until it is confirmed, also on the next connections. */
    _confirm(/** @type {any} */ key, /** @type {number} */ timeout, /** @type {any} */ content) {
      allow();
      const data = encode(content, maxMessageBytes), size = sizeOf(data), all = calls.filter(({ verb }) => !verb);
      if (all.length >= maxUnconfirmed || all.reduce((sum, item) => sum + item.size, size) > maxUnconfirmedBytes || nextMessage >= 2 ** 32) {
        throw fail("limit", `more than maxUnconfirmed=${maxUnconfirmed} or maxUnconfirmedBytes=${maxUnconfirmedBytes}: wait for confirmations`, 0, true);
      }
      add(key, "", "", timeout, (n) => message(data, n), size);
    },
    _request(/** @type {any} */ key, /** @type {number} */ timeout, /** @type {string} */ name, /** @type {any} */ content) {
      allow();
      const data = json(content), length = typeof name === "string" && [...name].length;
      demand(length && length <= 128, `no request "${name}": 1 to 128 characters`);
      const head = json(name);
      add(key, "q", "", timeout, (n) => `{"q":${n},"m":${head},"d":${data}}`);
    },
    /** Join or leave a room. */
    _move(/** @type {any} */ key, /** @type {number} */ timeout, /** @type {"join" | "leave"} */ verb, /** @type {string} */ room) {
      allow();
      checkRoom(room);
      addShort(verb, room, key, timeout);
      if (verb === "leave") wanted.delete(room);
    },
    /** Forget a call or a message. It may be carried out all the same. */
    _cancel: (/** @type {any} */ key) => withdraw((call) => call.key === key),
    /** Answer a request of the server, if it still waits. */
    _answer(/** @type {number} */ of, /** @type {number} */ n, /** @type {Failure | null} */ failure, /** @type {any} */ result) {
      if (link !== of || !asked.has(n)) return;
      const data = failure
        ? `"x":${json({ code: failure.code.slice(0, 128), message: [...failure.message].slice(0, 1024).join(""), retry: failure.retry })}`
        : `"d":${json(result ?? null)}`;
      asked.delete(n);
      send(`{"a":${n},${data}}`);
    },
    /** The application has handled a message of the mailbox. */
    _handled(/** @type {number} */ id) {
      mark = id;
      marked++;
      sendMark();
    },
    _watch(/** @type {string} */ room) {
      checkRoom(room);
      const presence = presences.get(room) ?? { v: 0, isWatched: false, members: new Map(), pages: new Map(), pagesOf: -NEVER, asked: -NEVER };
      const wasWatched = presence.isWatched;
      presence.isWatched = true;
      presences.set(room, presence);
      if (presence.v) show(room, presence);
      if (!wasWatched) ask(room);
    },
    _unwatch(/** @type {string} */ room) {
      const presence = presences.get(room);
      if (!presence?.isWatched) return;
      presence.isWatched = false;
      if (rooms.has(room)) send(`{"p":${JSON.stringify(room)},"v":null}`);
    },
  };
}
