import { detailOf } from "./dom.js";
import { Job } from "./job.js";
import { Slots } from "./slots.js";
import { newId } from "./workspace.js";

/** @typedef {import("./job.js").Order} Order */

const FOLLOWED = 3; // the streams of events at a time; a job far behind in the queue has nothing to tell yet

/**
 * The paintings that were asked for, oldest first: sent in that order, painted when the server comes to them. One that
 * failed stays until it is tried again or put away.
 *
 * Emits "jobs" when one comes or goes, "progress" and "preview" (detail: job, url) of each, "painted" (detail: answer,
 * order, paths, blobs; then the listener calls `forget`), "failed" (detail: job, error), and "order" and "end" (detail:
 * the order) when there is something to remember or to forget.
 */
export class Painting extends EventTarget {
  #slots = new Slots(FOLLOWED);
  /** @type {Promise<unknown>} */
  #sent = Promise.resolve();
  /** @type {Job[]} */
  jobs = [];
  /** The picture that is shown has this workspace; its jobs are those that are shown. */
  workspace = "";

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
  }

  /** The jobs of the picture that is shown. */
  get here() {
    return this.jobs.filter(({ order }) => order.workspace === this.workspace);
  }

  /** Those of them that have not ended. */
  get running() {
    return this.here.filter((job) => job.running);
  }

  /** Show the jobs of another picture. @param {string} workspace */
  show(workspace) {
    this.workspace = workspace;
    this.#emit("jobs");
  }

  /** The job whose progress stands for all: the first that is being painted, else the first. @returns {?Job} */
  get front() {
    const { running } = this;
    return running.find(({ progress }) => progress.steps > 0) ?? running[0] ?? null;
  }

  /** @param {Order} order */
  begin(order) {
    this.#emit("order", order);
    this.resume(order);
  }

  /** Go on with an order, also one that a reload interrupted. @param {Order} order */
  resume(order) {
    const job = new Job(this.api, order);
    job.addEventListener("progress", () => this.#progressed(job));
    job.addEventListener("preview", (event) => this.#emit("preview", { job, url: detailOf(event) }));
    job.addEventListener("order", () => this.#emit("order", order));
    job.addEventListener("painted", (event) => {
      job.brought = true;
      this.#emit("painted", detailOf(event));
    });
    job.addEventListener("failed", (event) => this.#emit("failed", { job, error: detailOf(event) }));
    this.jobs.push(job);
    this.#emit("jobs");
    job.run(this.#sent, this.#slots);
    this.#sent = job.sent;
  }

  /** Paint once more what failed. @param {Job} job */
  again(job) {
    this.remove(job);
    // The server may have painted, and failed, what has an id: it would give the same answer to the same key.
    const { order } = job;
    this.begin(order.id ? { ...order, id: "", key: newId() } : order);
  }

  /** Need an order no more: it has ended, and what it has brought is kept. @param {Order} order */
  forget(order) {
    this.#emit("end", order);
  }

  /** Put away a job that has ended. @param {Job} job */
  remove(job) {
    this.jobs = this.jobs.filter((one) => one !== job);
    this.#emit("jobs");
  }

  /** @param {Job} job */
  #progressed(job) {
    this.#emit("progress", job);
    if (job.running) return;
    if (!job.brought) this.forget(job.order);
    if (job.progress.state === "over") this.remove(job);
  }

  /** @param {string} type @param {unknown} [detail] */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
