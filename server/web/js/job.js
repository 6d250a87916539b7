import { ApiError, picturePath } from "./api.js";
import { t } from "./i18n.js";
import { follow } from "./stream.js";

/**
 * @typedef {[name: string, value: string|Blob, fileName?: string][]} Form
 *
 * @typedef {object} Order what is painted, and what a reload must know to go on with it
 * @property {string} key its name in the page and, as idempotency key, at the server
 * @property {string} workspace
 * @property {number} at when it was asked for
 * @property {string} id of the request at the server; "" until the server has taken it
 * @property {?Form} form what is sent; null where the server has it and the page was loaded again since
 * @property {Record<string, unknown>} settings as they were sent
 * @property {{name: string, type: string}} origin of the picture: its file's name and type
 * @property {string} base the picture that it is painted on, see `Pictures`
 * @property {import("./bases.js").Place} [place] its size, and where the picture is in it
 * @property {?import("./editor/target.js").Target} target its box and its mask
 * @property {?Blob} thumbnail of them
 *
 * @typedef {object} Progress
 * @property {"sending"|"queued"|"painting"|"fetching"|"lost"|"failed"|"over"} state
 * @property {number} step
 * @property {number} steps
 * @property {?number} position in the queue, 0 is next
 * @property {?number} leftS seconds, once that is known
 */

/** @type {Progress} */
const NEW = { state: "sending", step: 0, steps: 0, position: null, leftS: null };

/**
 * One painting, from the Paint button to its pictures. Emits "progress", "preview" (detail: a PNG's data URL),
 * "order" when what a reload must know has changed, "painted" (detail: answer, order, paths, blobs), and "failed"
 * (detail: the error).
 */
export class Job extends EventTarget {
  #abort = new AbortController();
  #cancelled = false;
  #began = 0;
  #beganStep = 0;
  /** @type {Progress} */
  progress = NEW;
  brought = false; // its pictures are there

  /** @type {() => void} */
  #taken = () => {};
  /** Settles when the server has taken it, or will not. @type {Promise<void>} */
  sent = new Promise((resolve) => (this.#taken = resolve));

  /** @param {import("./api.js").Api} api @param {Order} order */
  constructor(api, order) {
    super();
    this.api = api;
    this.order = order;
  }

  /** True until its pictures are there, or it is given up. */
  get running() {
    return this.progress.state !== "over" && this.progress.state !== "failed";
  }

  /**
   * Send it, unless the server has it, and follow it.
   * @param {Promise<unknown>} turn what must be sent before @param {import("./slots.js").Slots} slots of streams
   */
  async run(turn, slots) {
    const { order } = this;
    const { signal } = this.#abort;
    try {
      if (!order.id) await this.#send(turn);
      this.#taken();
      if (order.id && !signal.aborted) {
        this.#setProgress({ ...NEW, state: "queued" });
        await slots.hold(signal, () => this.#follow(signal));
      }
      this.#setProgress({ ...this.progress, state: "over" });
    } catch (error) {
      this.#setProgress({ ...this.progress, state: this.#cancelled ? "over" : "failed" });
      if (!this.#cancelled) this.#emit("failed", error);
    } finally {
      this.#taken();
    }
  }

  /** @param {Promise<unknown>} turn */
  async #send(turn) {
    const { order } = this;
    await turn;
    if (this.#cancelled) return;
    if (!order.form) throw new Error(t("The painting was not sent before the page was closed. Press Paint again."));
    const form = new FormData();
    for (const [name, value, fileName] of order.form) {
      if (value instanceof Blob) form.set(name, value, fileName);
      else form.set(name, value);
    }
    order.id = await this.api.submit(form, order.key);
    this.#emit("order");
    if (this.#cancelled) await this.cancel();
  }

  /** Stop it within a step; the pictures of a painting that has just ended are kept all the same. */
  async cancel() {
    this.#cancelled = true;
    if (!this.order.id) return; // it is being sent, and cancelled once it has an id
    try {
      await this.api.cancel(this.order.id);
    } catch (error) {
      this.#emit("failed", error);
    }
    this.#abort.abort();
  }

  /** @param {AbortSignal} signal */
  async #follow(signal) {
    /** @param {boolean} lost */
    const connection = (lost) => {
      if (lost) this.#setProgress({ ...this.progress, state: "lost" });
      else if (this.progress.state === "lost") this.#setProgress({ ...NEW, state: "queued" });
    };
    for await (const { event, data } of follow(this.api, this.order.id, signal, connection)) {
      if (event === "queued") this.#setProgress({ ...NEW, state: "queued", position: data.position });
      else if (event === "step") this.#step(data);
      else if (event === "failed") throw new ApiError(data.error ?? t("The picture was not painted."), 500);
      else if (event === "done") await this.#fetch(data);
    }
  }

  /** @param {{step: number, steps: number, preview?: ?string}} event */
  #step({ step, steps, preview }) {
    const now = performance.now();
    if (!this.#began || step < this.#beganStep) [this.#began, this.#beganStep] = [now, step];
    const taken = step - this.#beganStep;
    const leftS = taken > 0 ? ((now - this.#began) / taken / 1000) * (steps - step) : null;
    this.#setProgress({ state: "painting", step, steps, position: null, leftS });
    if (preview) this.#emit("preview", preview);
  }

  /** @param {{images: {url: string}[]}} answer */
  async #fetch(answer) {
    const { order } = this;
    this.#setProgress({ ...this.progress, state: "fetching" });
    const paths = answer.images.map(({ url }, number) => picturePath(order.id, number, url));
    const crop = order.place ? "&crop=box" : ""; // an order of an earlier version
    const blobs = await Promise.all(paths.map((path) => this.api.picture(`${path}${crop}`)));
    this.#emit("painted", { answer, order, paths, blobs });
  }

  /** @param {Progress} progress */
  #setProgress(progress) {
    this.progress = progress;
    this.#emit("progress");
  }

  /** @param {string} type @param {unknown} [detail] */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
