// Frames of `stabilizer.v1`: checks those of the server, and what an application sends. The server ends a client for
// good whose frame breaks a rule, so the rules are checked before.

import { StabilizerError } from "./errors.js";

/** @typedef {string | 0 | 1} Log A room, 0 for the mailbox of this client, 1 for everybody. */
/** @typedef {string | Uint8Array<ArrayBuffer>} Frame */
/** @typedef {[log: Log, top: number, code: string]} LostLog */
/** @typedef {{ code: string, message: string, retry?: boolean }} Failure The error of an answer. */
/** @typedef {{ at: Record<string, number | null>, all?: number | null, box?: number | null }} Positions */
/**
 * @typedef {Positions & { v: number, id: string, sid: string, t: number, ping: number, exp?: number | null,
 *   re?: boolean | "later" | null, n?: number | null, lost?: LostLog[] }} Hi
 */
/** @typedef {(value: any) => any} Check Whether a value fits. */

/**
 * @param {unknown} fits
 * @param {string} message
 * @param {string} [code]
 * @returns {asserts fits}
 */
export function demand(fits, message, code = "invalid") {
  if (!fits) throw new StabilizerError(code, message);
}

const isString = (/** @type {any} */ value) => typeof value === "string";
const isNumber = (/** @type {any} */ value) => typeof value === "number" && value >= 0 && value < 2 ** 53;
const isInteger = (/** @type {any} */ value) => isNumber(value) && value % 1 === 0;
const isAnything = () => true;
/** @type {(value: any, fields?: Record<string, Check>) => any} An object with these fields. */
const isObject = (value, fields = {}) =>
  value && typeof value === "object" && !Array.isArray(value) && Object.keys(fields).every((key) => fields[key](value[key]));
/** @type {(check: Check) => Check} */
const optional = (check) => (value) => value == null || check(value);
/** @type {(check: Check) => Check} */
const list = (check) => (value) => Array.isArray(value) && value.every(check);
/** @type {(...checks: Check[]) => Check} An array that begins with these elements. */
const row = (...checks) => (value) => Array.isArray(value) && checks.every((check, at) => at in value && check(value[at]));

/**
 * @param {any} log
 * @returns {log is Log}
 */
export const isLog = (log) => isString(log) || log === 0 || log === 1;

const isPosition = optional(isInteger);
const isFailure = optional((value) => isObject(value, { code: isString, message: isString }));
const isMembers = optional(list(row(isString, isAnything)));
const isLost = list((value) => row(isAnything, isLog(value[0]) ? isInteger : isAnything, isLog(value[0]) ? isString : isAnything)(value));
const POSITIONS = {
  at: (/** @type {any} */ value) => isObject(value) && Object.values(value).every(isPosition), all: isPosition, box: isPosition,
};
const HI = {
  ...POSITIONS, v: isInteger, id: isString, sid: isString, t: isInteger, ping: isNumber, exp: optional(isNumber), n: isPosition,
  lost: optional(isLost), re: (/** @type {any} */ value) => value == null || value === !!value || value === "later",
};
/** @type {Record<string, Record<string, Check>>} The fields of each kind. */
const FIELDS = {
  // @ts-expect-error: without inherited keys, since a later kind may be called "constructor"
  __proto__: null,
  hi: { hi: (hi) => hi?.v > 1 ? isInteger(hi.v) : isObject(hi, HI) }, // another version may have another form
  live: { live: isInteger },
  lost: { lost: isLost },
  re: { re: (value) => value === !!value },
  in: { in: isString, at: isPosition },
  out: { out: isString },
  at: POSITIONS,
  t: { t: isInteger },
  q: { q: isInteger, m: isString },
  a: { a: isInteger, x: isFailure },
  c: { c: isInteger },
  n: { n: isInteger, x: isFailure },
  p: { p: isString, v: isInteger, from: isPosition, "=": isMembers, "+": isMembers, "-": optional(list(isString)) },
  go: { go: (value) => isObject(value, { in: isInteger }) },
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
  const value = typeof data === "string" ? JSON.parse(data) : readBinary(data);
  const isMessage = Array.isArray(value), [kind] = isMessage ? "[" : [...Object.keys(Object(value)), ""];
  demand(
    isMessage ? row(isInteger, isAnything, isAnything)(value) && (!isLog(value[1]) || isString(value[3] ?? ""))
      : isObject(value, FIELDS[kind]),
    `a malformed frame: ${data.slice(0, 99)}`,
  );
  return [kind, value];
}

/** @type {(data: ArrayBuffer) => [id: number, log: Log | null, data: ArrayBuffer, key: string]} */
function readBinary(data) {
  const view = new DataView(data), kind = view.getUint8(0); // it throws behind the end
  if (kind > 4 || kind === 3) return [0, null, data, ""];
  let end = 11;
  /** @type {(length: number) => string} */
  const text = (length) => {
    end += length;
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(data, end - length, length));
  };
  const room = text(view.getUint16(9)), key = kind > 3 ? text(view.getUint8(end++)) : "";
  return [view.getUint32(1) * 2 ** 32 + view.getUint32(5), kind === 1 ? 0 : kind === 2 ? 1 : room, data.slice(end), key];
}

/** @type {(text: string) => Uint8Array<ArrayBuffer>} */
export const utf8 = (text) => new TextEncoder().encode(text);
/** @type {(data: Frame) => number} */
export const sizeOf = (data) => (typeof data === "string" ? utf8(data) : data).length;

/**
 * Data of a message or a request, checked and as it is sent: JSON, or bytes.
 *
 * @param {any} data
 * @param {number} [maxBytes]
 * @returns {Frame}
 * @throws {StabilizerError} "invalid": it is no JSON, too large or too deep.
 */
export function encode(data, maxBytes = Infinity) {
  /** @type {Frame | undefined} */
  let frame;
  try {
    frame = ArrayBuffer.isView(data) || data instanceof ArrayBuffer
      ? new Uint8Array(/** @type {any} */ (data).buffer ?? data, /** @type {any} */ (data).byteOffset, data.byteLength).slice()
      : JSON.stringify(data);
  } catch (error) {
    demand(0, `${error}`);
  }
  demand(frame !== undefined, `${typeof data} has no JSON`);
  demand(sizeOf(frame) <= maxBytes, `${sizeOf(frame)} bytes are more than maxMessageBytes=${maxBytes}`);
  let depth = 1, count = 1, isText = false; // the first one is the object of the frame
  // JSON.stringify escapes halves of surrogate pairs, and nothing else of that form.
  for (const [token] of typeof frame === "string" ? frame.matchAll(/\\ud[89a-f]|\\.|["[\]{}]/g) : []) {
    demand(!token[2], "half of a surrogate pair");
    if (token === '"') isText = !isText;
    if (isText || token[1] || token === '"') continue;
    const isOpening = "[{".includes(token);
    depth += isOpening ? 1 : -1;
    count += +isOpening;
    demand(depth <= 64 && count <= 65_536, "more than 64 arrays and objects inside each other, or 65,536 in all");
  }
  return frame;
}

/**
 * The frame of a message. With a number, the server confirms it.
 *
 * @param {Frame} data
 * @param {number} [number]
 * @returns {Frame}
 */
export function message(data, number = 0) {
  if (typeof data === "string") return `{"m":${data}${number ? `,"n":${number}` : ""}}`;
  const frame = new Uint8Array(5 + data.length);
  new DataView(frame.buffer).setUint32(1, number);
  frame[0] = 3;
  frame.set(data, 5);
  return frame;
}
