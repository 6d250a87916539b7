import { computed, needsTime } from "./computing.js";

/** @typedef {import("./core.js").Core} Core @typedef {import("./ops.js").Op} Op */

/**
 * The steps that are asked for, one after the other. Most are done in the same frame; while one is being computed in
 * the background those after it wait, and nothing is drawn.
 */
export class Steps {
  #queue = Promise.resolve();
  #waiting = 0;
  #turn = 0; // grows when what is being computed is no longer wanted

  /** @param {Core} core @param {import("./background.js").Background} background */
  constructor(core, background) {
    this.core = core;
    this.background = background;
  }

  /** True while a step is being computed. */
  get busy() {
    return this.#waiting > 0;
  }

  /** @param {Op} op */
  run(op) {
    const { doc } = this.core;
    if (!doc) return;
    if (this.busy || needsTime(doc, op)) return this.#wait(doc, op);
    doc.run(op);
    this.core.edited();
  }

  /** Forget what is being computed, and what waits for it. */
  drop() {
    this.#turn += 1;
    this.#show(0);
  }

  /** Wait until all steps are done. */
  async settled() {
    while (this.busy) await this.#queue;
  }

  /** @param {import("./document.js").Document} doc @param {Op} op */
  #wait(doc, op) {
    const turn = this.#turn;
    this.#show(this.#waiting + 1);
    this.#queue = this.#queue.then(async () => {
      try {
        if (turn === this.#turn) await this.#compute(doc, op, turn);
      } catch (error) {
        this.core.emit("failed", error);
      } finally {
        if (turn === this.#turn) this.#show(this.#waiting - 1);
      }
    });
  }

  /** @param {import("./document.js").Document} doc @param {Op} op @param {number} turn */
  async #compute(doc, op, turn) {
    const isWanted = () => turn === this.#turn;
    const change = await computed(doc, op, this.background);
    if (change && isWanted() && (await doc.make(op, change, isWanted))) this.core.edited();
  }

  /** @param {number} waiting */
  #show(waiting) {
    const before = this.busy;
    this.#waiting = waiting;
    if (before !== this.busy) this.core.setBusy(this.busy);
  }
}
