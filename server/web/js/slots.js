/**
 * A few places for many that want one, given in the order in which they asked: a browser has six connections to a
 * server, and each stream of events holds one.
 */
export class Slots {
  #free;
  /** @type {(() => void)[]} */
  #waiting = [];

  /** @param {number} count */
  constructor(count) {
    this.#free = count;
  }

  /**
   * Do something once there is a place for it.
   * @param {AbortSignal} signal gives up waiting @param {() => Promise<void>} action
   */
  async hold(signal, action) {
    await this.#place(signal);
    try {
      await action();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }

  /** @param {AbortSignal} signal @returns {Promise<void>} */
  #place(signal) {
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      signal.addEventListener("abort", () => {
        const at = this.#waiting.indexOf(resolve);
        if (at < 0) return; // it has its place
        this.#waiting.splice(at, 1);
        reject(signal.reason);
      });
    });
  }
}
