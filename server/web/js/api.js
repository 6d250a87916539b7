import { t } from "./i18n.js";

/**
 * @typedef {object} FieldOffer one field of a request, see server/dialects/discovery.py
 * @property {string} name
 * @property {"integer"|"number"|"boolean"|"text"|"choice"|"list"} kind
 * @property {boolean} required
 * @property {any} default
 * @property {?number} minimum
 * @property {?number} maximum
 * @property {string[]} choices
 * @property {string} description
 *
 * @typedef {object} About the loaded model, said to people
 * @property {string} text
 * @property {boolean} photographs whether it paints them
 * @property {?string[]} things what it paints, as prompts call it, if that is little
 * @property {?string[]} words those of prompts that it knows, if they are few
 *
 * @typedef {object} Offer what the server can do
 * @property {string} model
 * @property {string} version
 * @property {boolean} ready
 * @property {?number} native_size
 * @property {{name: string, ready: boolean, native_size: ?number, about: About}[]} models the first is `model`
 * @property {About} about
 * @property {string[]} loras
 * @property {FieldOffer[]} fields
 * @property {import("./selecting.js").SelectOffer} [select]
 */

/** An error that the server answered with, or no answer: then `status` is 0. */
export class ApiError extends Error {
  /** @param {string} message one sentence @param {number} status @param {?number} retryAfterS */
  constructor(message, status, retryAfterS = null) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

const OFFLINE = t("The server does not answer.");

/** A client of the public v2 API on the page's own server; but for its probe the page uses no other routes. */
export class Api {
  #keyring;

  /** @param {URL} base where the page is @param {import("./keyring.js").Keyring} keyring */
  constructor(base, keyring) {
    this.base = base;
    this.#keyring = keyring;
  }

  /** @param {AbortSignal} signal @returns {Promise<Offer>} */
  async offer(signal) {
    return (await this.fetch("v2/sdxl-inpaint", { signal })).json();
  }

  /** Ask whether the server can paint now; it keeps no log of these. @param {AbortSignal} signal @throws {ApiError} */
  async ready(signal) {
    await this.fetch("readyz", { signal });
  }

  /**
   * Queue a painting; sending it again with the same key is the same request.
   * @param {FormData} form @param {string} idempotencyKey @returns {Promise<string>} the request's id
   */
  async submit(form, idempotencyKey) {
    const headers = { "Idempotency-Key": idempotencyKey };
    const answer = await this.fetch("v2/sdxl-inpaint", { method: "POST", body: form, headers });
    return (await answer.json()).request_id;
  }

  /**
   * Queue the exact picture of a draft; sending it again with the same key is the same request.
   * @param {string} id of the request that painted the draft @param {number} seed @param {string} idempotencyKey
   * @returns {Promise<string>} the new request's id
   */
  async refine(id, seed, idempotencyKey) {
    const headers = { "Idempotency-Key": idempotencyKey, "Content-Type": "application/json" };
    const body = JSON.stringify({ seed });
    const answer = await this.fetch(`v2/requests/${id}/refine`, { method: "POST", body, headers });
    return (await answer.json()).request_id;
  }

  /** @param {string} id */
  async cancel(id) {
    await this.fetch(`v2/requests/${id}`, { method: "DELETE" });
  }

  /**
   * The bytes of the events.
   * @param {string} id @param {AbortSignal} signal @returns {Promise<ReadableStream<Uint8Array<ArrayBuffer>>>}
   */
  async events(id, signal) {
    const { body } = await this.fetch(`v2/requests/${id}/events`, { signal });
    if (!body) throw new ApiError(OFFLINE, 0);
    return body;
  }

  /**
   * What a picture says about itself.
   * @param {Blob} blob @returns {Promise<{settings: ?Record<string, any>, model: ?string, left_out: string[]}>}
   */
  async info(blob) {
    const form = new FormData();
    form.append("image", blob, "picture");
    return (await this.fetch("v2/info", { method: "POST", body: form })).json();
  }

  /**
   * A picture without the part under the mask, as PNG.
   * @param {Blob} picture @param {Blob} mask
   */
  async erase(picture, mask) {
    const form = new FormData();
    form.append("image", picture, "picture");
    form.append("mask", mask, "mask.png");
    form.append("format", "png");
    return (await this.fetch("v2/erase", { method: "POST", body: form })).blob();
  }

  /**
   * A picture in a format that every browser shows.
   * @param {Blob|string} source a file or a URL, which the server fetches
   */
  async displayable(source) {
    const form = new FormData();
    if (source instanceof Blob) form.append("image", source, "picture");
    else form.append("image", source);
    return (await this.fetch("v2/picture", { method: "POST", body: form })).blob();
  }

  /**
   * An object in a picture.
   * @param {Record<string, string|Blob>} fields of `POST /v2/select` @param {AbortSignal} [signal]
   * @returns {Promise<import("./selecting.js").Selected>}
   */
  async select(fields, signal) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      if (value instanceof Blob) form.append(name, value, name);
      else form.append(name, value);
    }
    return (await this.fetch("v2/select", { method: "POST", body: form, signal })).json();
  }

  /**
   * One painted picture.
   * @param {string} path from `picturePath` @param {?string} format another than it was painted in
   */
  async picture(path, format = null) {
    return (await this.fetch(format ? `${path}&format=${format}` : path)).blob();
  }

  /** @param {string} path @param {RequestInit} [options] @returns {Promise<Response>} @throws {ApiError} */
  async fetch(path, options = {}) {
    for (;;) {
      const key = this.#keyring.key;
      const answer = await this.#send(path, options, key);
      if (answer.ok) return answer;
      const error = await problem(answer);
      // The person is asked once for each refused key; if they close the dialog, the refusal is the answer.
      const isKey = answer.status === 401;
      if (!isKey || !(await this.#keyring.ask(key, error.message))) throw error;
    }
  }

  /** @param {string} path @param {RequestInit} options @param {?string} key */
  async #send(path, options, key) {
    const headers = { ...options.headers, ...(key ? { "x-api-key": key } : {}) };
    try {
      return await fetch(new URL(path, this.base), { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") throw error;
      throw new ApiError(OFFLINE, 0);
    }
  }
}

/**
 * The path under which the page fetches a picture: on its own host, since the server may have another name in `url`,
 * and with the token that opens the picture for as long as the server has it.
 * @param {string} id of the request @param {number} number @param {string} url from the server's answer
 */
export function picturePath(id, number, url) {
  return `v2/requests/${id}/images/${number}${new URL(url).search}`;
}

/** @param {Response} answer */
async function problem(answer) {
  const after = Number(answer.headers.get("retry-after"));
  let text = t("The server answered with status {status}.", { status: answer.status });
  try {
    text = (await answer.json()).error ?? text;
  } catch {
    // A proxy's own page; its status says more than its markup.
  }
  return new ApiError(text, answer.status, Number.isFinite(after) && after > 0 ? after : null);
}
