/** @typedef {import("./wand.js").WandClick} WandClick @typedef {import("./wand.js").Selection} Selection */
/** @typedef {import("./mask.js").Level} Region */
/**
 * @typedef {{kind: "wand", key: number, blob: Blob, click: ?WandClick}
 *   | {kind: "grow", region: Region, px: number} | {kind: "grey", blob: Blob}
 *   | {kind: "stroke", stroke: import("./ops.js").StrokeOp, width: number, height: number}} Question
 */

/** What the editor asks of its thread in the background, which starts with the first question. */
export class Background {
  /** @type {?Worker} */
  #worker = null;
  /** @type {Map<number, {resolve: (found: any) => void, reject: (error: Error) => void}>} */
  #open = new Map();
  #asked = 0;
  /** Numbers for pictures: two files of the same bytes may be two pictures. @type {WeakMap<Blob, number>} */
  #keys = new WeakMap();

  /** Have a picture's pixels ready for the wand. @param {Blob} blob */
  async prepare(blob) {
    await this.wand(blob, null);
  }

  /** @param {Blob} blob of the picture @param {?WandClick} click @returns {Promise<?Selection>} */
  wand(blob, click) {
    const key = this.#keys.get(blob) ?? ++this.#asked;
    this.#keys.set(blob, key);
    return this.#ask({ kind: "wand", key, blob, click });
  }

  /** Grow a region, which is handed over. @param {Region} region @param {number} px @returns {Promise<Uint8Array>} */
  grow({ values, width, height }, px) {
    return this.#ask({ kind: "grow", region: { values, width, height }, px }, [values.buffer]);
  }

  /** Read a grey PNG. @param {Blob} blob @returns {Promise<Uint8Array<ArrayBuffer>>} */
  grey(blob) {
    return this.#ask({ kind: "grey", blob });
  }

  /**
   * Draw a stroke on an empty mask.
   * @param {import("./ops.js").StrokeOp} stroke @param {number} width @param {number} height
   * @returns {Promise<Blob>} a grey PNG
   */
  stroke(stroke, width, height) {
    return this.#ask({ kind: "stroke", stroke, width, height });
  }

  /** @param {Question} question @param {Transferable[]} given @returns {Promise<any>} */
  #ask(question, given = []) {
    const worker = (this.#worker ??= this.#start());
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      worker.postMessage({ id, question }, given);
    });
  }

  #start() {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data: { id, found, error } }) => {
      const { resolve, reject } = this.#open.get(id) ?? {};
      this.#open.delete(id);
      if (error === undefined) resolve?.(found);
      else reject?.(new Error(error));
    });
    worker.addEventListener("error", () => {
      this.#worker = null; // the next question starts another one
      for (const { reject } of this.#open.values()) reject(new Error("The browser stopped what was being computed."));
      this.#open.clear();
    });
    return worker;
  }
}
