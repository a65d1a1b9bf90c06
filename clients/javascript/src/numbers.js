// Numbers of the client, in a module of their own: the build puts such ones where they are used. Times are milliseconds.

/** Close codes: ended without a close frame; credentials refused; another connection of this client. */
export const BROKEN = 1006, UNAUTHORIZED = 4401, REPLACED = 4500;
/** Milliseconds of an attempt, and to the next one to renew credentials; of the delays after failed ones, with full jitter; of the longest hint of a server. */
export const ATTEMPT = 10_000, FIRST_DELAY = 500, LONGEST_DELAY = 20_000, LONGEST_HINT = 300_000;
/** Longest delay after the drop of a connection that was live for `SETTLED`. */
export const AFTER_LIVE = 1_000, SETTLED = 5_000;
/** Silence beyond the interval of the server's signs of life; then the time for an answer, shorter after a sleep. */
export const GRACE = 10_000, PATIENCE = 5_000, PATIENCE_AFTER_SLEEP = 2_000;
/** A timer that is later than this shows that the machine was asleep. */
export const LATE = 5_000;
/** Requests in flight in each direction; calls that wait, and the time for the answer to a call of the client's own. */
export const MAX_OPEN = 64, MAX_WAITING = 1024, ANSWERED = 30_000;
/** Messages to several rooms that are remembered, so that each is given to the application once. */
export const KEYS = 256;
/** Messages of the mailbox, or time, after which the server is told that they were handled. */
export const MARK_EVERY = 64, MARK_INTERVAL = 1_000;
/** Time after which a change of presence that does not follow is a reason to ask once more. */
export const ASKED_AGAIN = 5_000;
/** Stages of an attempt: it waits for a token, for a socket, for `hi`. */
export const AUTHORIZING = 0, DIALED = 1, OPEN = 2;

/** Longest time between two looks at the clock, which show that the system was asleep. */
export const LONGEST_SLEEP = 10_000;
export const SAVE_INTERVAL = 200;
