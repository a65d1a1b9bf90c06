/**
 * The error of every call, and of a client that has ended.
 *
 * `code` is for programs: "not-connected", "timeout", "interrupted" (it may have been carried out), "limit", "invalid"
 * (the data cannot be sent), "closed", "replaced", "unauthorized", "incompatible". Other codes are those of the
 * application of the server, or of its library, such as "not_found".
 */
export class StabilizerError extends Error {
  name = "StabilizerError";

  /**
   * @param {string} code
   * @param {string} message
   * @param {{ retry?: boolean, closeCode?: number }} [more] `retry`: the same call may succeed later.
   */
  constructor(code, message, { retry = false, closeCode } = {}) {
    super(message);
    this.code = code;
    this.retry = retry;
    this.closeCode = closeCode;
  }
}
