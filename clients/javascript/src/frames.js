// Frames of `stabilizer.v1`: checks those of the server, and what an application sends. The server ends a client for
// good whose frame breaks a rule, so the rules are checked before.

import { StabilizerError } from "./errors.js";

/** @typedef {string | 0 | 1} Log A room, 0 for the mailbox of this client, 1 for everybody. */
/** @typedef {string | Uint8Array<ArrayBuffer>} Frame */
/** @typedef {[log: Log, top: number, code: string]} LostLog */
/** @typedef {[id: string, metadata: any]} Member */
/** @typedef {{ code: string, message: string, retry?: boolean }} Failure The error of an answer. */
/** @typedef {{ at: Record<string, number | null>, all?: number | null, box?: number | null }} Positions */
/**
 * @typedef {Positions & { v: number, id: string, sid: string, t: number, ping: number, exp?: number | null,
 *   re?: boolean | "later" | null, n?: number | null, lost?: LostLog[] }} Hi
 */

export const LAST_NUMBER = 2 ** 32 - 1;

/** @type {(fits: (value: any) => any) => (value: any) => any} A check that returns the value. */
const check = (fits) => (value) => {
  if (!fits(value)) throw new TypeError(`a frame has ${JSON.stringify(value)} where something else belongs`);
  return value;
};
/** @type {(check: (value: any) => any) => (value: any) => any} */
const optional = (check) => (value) => value == null ? value : check(value);
const isObject = (/** @type {any} */ value) => value && typeof value === "object" && !Array.isArray(value);
/** @type {(fields: Record<string, (value: any) => any>) => (value: any) => any} An object with these fields. */
const shape = (fields) => check((value) => {
  if (isObject(value)) for (const key in fields) fields[key](value[key]);
  return isObject(value);
});
/** @type {(item: (value: any) => any, length?: number) => (value: any) => any} */
const list = (item, length = 0) =>
  check((value) => Array.isArray(value) && value.length >= length && (value.forEach(item), true));

const integer = check((value) => Number.isSafeInteger(value) && value >= 0);
const string = check((value) => typeof value === "string");
const seconds = check((value) => typeof value === "number" && value >= 0 && value <= Number.MAX_SAFE_INTEGER);
const anything = () => true;
const rooms = check((value) => isObject(value) && (Object.values(value).forEach(optional(integer)), true));
const logs = { at: rooms, all: optional(integer), box: optional(integer) };
const lost = list(check((row) => list(anything, 3)(row) && (!isLog(row[0]) || integer(row[1]) >= 0 && string(row[2]) != null)));
const members = optional(list(check((row) => list(anything, 2)(row) && string(row[0]) != null)));
const failure = optional(shape({ code: string, message: string }));
/**
 * @param {any} log
 * @returns {log is Log}
 */
export function isLog(log) {
  return typeof log === "string" || log === 0 || log === 1;
}

const HI = shape({
  ...logs, v: integer, id: string, sid: string, t: integer, ping: seconds, exp: optional(seconds), n: optional(integer),
  lost: optional(lost), re: check((value) => value == null || typeof value === "boolean" || value === "later"),
});

/** @type {Record<string, Record<string, (value: any) => any>>} The fields of each kind. */
const FIELDS = {
  // @ts-expect-error: without inherited keys, since a later kind may be called "constructor"
  __proto__: null,
  hi: { hi: (hi) => (hi?.v > 1 ? integer(hi.v) : HI(hi)) }, // another version may have another form
  live: { live: integer },
  lost: { lost },
  re: { re: check((value) => typeof value === "boolean") },
  in: { in: string, at: optional(integer) },
  out: { out: string },
  at: logs,
  t: { t: integer },
  q: { q: integer, m: string },
  a: { a: integer, x: failure },
  c: { c: integer },
  n: { n: integer, x: failure },
  p: { p: string, v: integer, from: optional(integer), "=": members, "+": members, "-": optional(list(string)) },
  go: { go: shape({ in: integer }) },
};

/**
 * Return the kind of a frame and its value: `["[", [id, log, data, key]]` for a message, otherwise the first key, "" if
 * there is none.
 *
 * @param {string | ArrayBuffer} data
 * @returns {[kind: string, value: any]}
 * @throws {Error} It is no JSON, or has a known kind and lacks something of it.
 */
export function read(data) {
  if (typeof data !== "string") return ["[", readBinary(data)];
  const value = JSON.parse(data);
  if (Array.isArray(value)) {
    list(anything, 3)(value);
    integer(value[0]);
    if (isLog(value[1]) && value.length > 3) string(value[3]);
    return ["[", value];
  }
  const [kind = ""] = Object.keys(shape({})(value));
  shape(FIELDS[kind] ?? {})(value);
  return [kind, value];
}

/** @type {(data: ArrayBuffer) => [id: number, log: Log | null, data: ArrayBuffer, key: string]} */
function readBinary(data) {
  const view = new DataView(data), kind = view.getUint8(0); // it throws behind the end
  if (![0, 1, 2, 4].includes(kind)) return [0, null, data, ""];
  let end = 9;
  /** @type {(start: number, length: number) => string} */
  const text = (start, length) => {
    end = start + length;
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(data, start, length));
  };
  const room = text(11, view.getUint16(9));
  const key = kind === 4 ? text(end + 1, view.getUint8(end)) : "";
  return [
    integer(view.getUint32(1) * 2 ** 32 + view.getUint32(5)), kind === 1 ? 0 : kind === 2 ? 1 : room, data.slice(end), key,
  ];
}

/** @type {(fits: any, message: string) => void} */
const demand = (fits, message) => {
  if (!fits) throw new StabilizerError("invalid", message);
};

/** @type {(text: string) => Uint8Array<ArrayBuffer>} */
export const utf8 = (text) => new TextEncoder().encode(text);

/** @type {(json: string) => void} JSON.stringify escapes halves of surrogate pairs, and nothing else of that form. */
const demandPairs = (json) =>
  demand(!/^([^\\]|\\[^u]|\\u[^d]|\\ud[0-7])*\\ud[89a-f]/.test(json), "a text has half of a surrogate pair");

/**
 * Data of a message or a request, checked and as it is sent: JSON, or bytes.
 *
 * @param {any} data
 * @param {number} maxBytes
 * @returns {Frame}
 * @throws {StabilizerError} "invalid": it is no JSON, too large or too deep.
 */
export function encode(data, maxBytes) {
  const isView = ArrayBuffer.isView(data);
  /** @type {Frame | undefined} */
  const encoded = isView || data instanceof ArrayBuffer
    ? new Uint8Array(isView ? /** @type {ArrayBuffer} */ (data.buffer).slice(data.byteOffset, data.byteOffset + data.byteLength) : data)
    : JSON.stringify(data);
  demand(encoded !== undefined, `${typeof data} has no JSON`);
  const frame = /** @type {Frame} */ (encoded), size = sizeOf(frame);
  demand(size <= maxBytes, `the data has ${size} bytes, the limit is maxMessageBytes=${maxBytes}`);
  if (typeof frame === "string") {
    demandPairs(frame);
    let depth = 1, count = 1; // the first one is the object of the frame
    for (const bracket of frame.replace(/"(\\.|[^"\\])*"|[^[\]{}"]/g, "")) {
      const isOpening = "[{".includes(bracket);
      depth += isOpening ? 1 : -1;
      count += +isOpening;
      demand(depth <= 64 && count <= 65_536, "the data has more than 64 arrays and objects inside each other, or 65,536 in all");
    }
  }
  return frame;
}

/** @type {(data: Frame) => number} */
export const sizeOf = (data) => (typeof data === "string" ? utf8(data) : data).length;

/**
 * @param {string} room
 * @returns {string} Its JSON.
 * @throws {StabilizerError} "invalid": no room can be called so.
 */
export function roomName(room) {
  const size = typeof room === "string" && !/\p{Cc}/u.test(room) && sizeOf(room);
  demand(size && size <= 512, "a room name has 1 to 512 bytes of UTF-8, without control characters");
  const json = JSON.stringify(room);
  demandPairs(json);
  return json;
}

/**
 * @param {string} name
 * @returns {string} Its JSON.
 * @throws {StabilizerError} "invalid": no request can be called so.
 */
export function requestName(name) {
  const length = typeof name === "string" && [...name].length;
  demand(length && length <= 128, "the name of a request has 1 to 128 characters");
  const json = JSON.stringify(name);
  demandPairs(json);
  return json;
}

/**
 * The frame of a message. With a number, the server confirms it.
 *
 * @param {Frame} data
 * @param {number} [number]
 * @returns {Frame}
 */
export function message(data, number) {
  if (typeof data === "string") return `{"m":${data}${number ? `,"n":${number}` : ""}}`;
  const frame = new Uint8Array(5 + data.length);
  new DataView(frame.buffer).setUint32(1, number ?? 0);
  frame[0] = 3;
  frame.set(data, 5);
  return frame;
}
