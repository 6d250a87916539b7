import { ApiError, picturePath } from "./api.js";
import { follow } from "./stream.js";
import { newId } from "./workspace.js";

/**
 * @typedef {object} Order what is painted, and what a reload must know to go on with it
 * @property {string} id of the request at the server
 * @property {Record<string, unknown>} settings as they were sent
 * @property {{name: string, type: string}} origin of the picture: its file's name and type
 *
 * @typedef {object} Progress
 * @property {"idle"|"sending"|"queued"|"painting"|"fetching"|"lost"} state
 * @property {number} step
 * @property {number} steps
 * @property {?number} position in the queue, 0 is next
 * @property {?number} leftS seconds, once that is known
 */

/** @type {Progress} */
const IDLE = { state: "idle", step: 0, steps: 0, position: null, leftS: null };

/**
 * One painting at a time, from the Paint button to its pictures. Emits "progress", "preview" (detail: a PNG's data
 * URL), "painted" (detail: answer, order, blobs), "failed" (detail: the error), and "order" when there is one to
 * remember or none any more.
 */
export class Painting extends EventTarget {
  #abort = new AbortController();
  #cancelled = false;
  #began = 0;
  #beganStep = 0;
  /** @type {Progress} */
  progress = IDLE;
  /** @type {?Order} */
  order = null;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
  }

  get running() {
    return this.progress.state !== "idle";
  }

  /** @param {FormData} form @param {Omit<Order, "id">} about */
  async paint(form, about) {
    if (this.running) return;
    await this.#run(async () => {
      this.#setProgress({ ...IDLE, state: "sending" });
      this.#remember({ ...about, id: await this.api.submit(form, newId()) });
      if (this.#cancelled) await this.cancel();
    });
  }

  /** Resume the painting that a reload interrupted. @param {Order} order */
  async resume(order) {
    if (this.running) return;
    await this.#run(async () => this.#remember(order));
  }

  /** Stop it within a step; the pictures of a painting that has just ended are kept all the same. */
  async cancel() {
    this.#cancelled = true;
    if (!this.order) return; // it is being sent, and cancelled once it has an id
    try {
      await this.api.cancel(this.order.id);
    } catch (error) {
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
    this.#abort.abort();
  }

  /** @param {() => Promise<void>} begin */
  async #run(begin) {
    const abort = (this.#abort = new AbortController());
    this.#cancelled = false;
    try {
      await begin();
      await this.#follow(/** @type {Order} */ (this.order), abort.signal);
    } catch (error) {
      if (!this.#cancelled) this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    } finally {
      this.#remember(null);
      this.#setProgress(IDLE);
    }
  }

  /** @param {Order} order @param {AbortSignal} signal */
  async #follow(order, signal) {
    this.#setProgress({ ...IDLE, state: "queued" });
    this.#began = 0;
    /** @param {boolean} lost */
    const connection = (lost) => {
      if (lost) this.#setProgress({ ...this.progress, state: "lost" });
      else if (this.progress.state === "lost") this.#setProgress({ ...IDLE, state: "queued" });
    };
    for await (const { event, data } of follow(this.api, order.id, signal, connection)) {
      if (event === "queued") this.#setProgress({ ...IDLE, state: "queued", position: data.position });
      else if (event === "step") this.#step(data);
      else if (event === "failed") throw new ApiError(data.error ?? "The picture was not painted.", 500);
      else if (event === "done") await this.#fetch(order, data);
    }
  }

  /** @param {{step: number, steps: number, preview?: ?string}} event */
  #step({ step, steps, preview }) {
    const now = performance.now();
    if (!this.#began || step < this.#beganStep) [this.#began, this.#beganStep] = [now, step];
    const taken = step - this.#beganStep;
    const leftS = taken > 0 ? ((now - this.#began) / taken / 1000) * (steps - step) : null;
    this.#setProgress({ state: "painting", step, steps, position: null, leftS });
    if (preview) this.dispatchEvent(new CustomEvent("preview", { detail: preview }));
  }

  /** @param {Order} order @param {{images: {url: string}[]}} answer */
  async #fetch(order, answer) {
    this.#setProgress({ ...this.progress, state: "fetching" });
    const paths = answer.images.map(({ url }, number) => picturePath(order.id, number, url));
    const blobs = await Promise.all(paths.map((path) => this.api.picture(path)));
    this.dispatchEvent(new CustomEvent("painted", { detail: { answer, order, paths, blobs } }));
  }

  /** @param {?Order} order */
  #remember(order) {
    this.order = order;
    this.dispatchEvent(new Event("order"));
  }

  /** @param {Progress} progress */
  #setProgress(progress) {
    this.progress = progress;
    this.dispatchEvent(new Event("progress"));
  }
}
