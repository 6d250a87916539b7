import { detailOf, set } from "./dom.js";

/** @typedef {import("./editor/editor.js").Editor} Editor @typedef {import("./results.js").Result} Result */

const MIDDLE = 0.5;

/** The selected result over the working picture: all of it, the part right of a divider, or hidden. */
export class Comparing {
  /** @type {?ImageBitmap} */
  #bitmap = null;
  #turn = 0;
  #split = MIDDLE;
  comparing = false;

  /**
   * @param {Editor} editor @param {import("./results.js").Results} results @param {HTMLButtonElement} button
   * @param {(error: unknown) => void} fail
   */
  constructor(editor, results, button, fail) {
    this.editor = editor;
    this.results = results;
    this.button = button;
    this.fail = fail;
    editor.addEventListener("split", (event) => (this.#split = detailOf(event)));
    this.#draw();
  }

  /** @param {?Result} result null shows the picture and its mask again */
  async show(result) {
    const turn = ++this.#turn;
    try {
      const bitmap = result && (await createImageBitmap(await this.results.file(result)));
      if (turn !== this.#turn) return bitmap?.close(); // another one was selected meanwhile
      this.#bitmap?.close();
      this.#bitmap = bitmap;
      if (!bitmap) this.comparing = false;
      this.#draw();
    } catch (error) {
      this.fail(error);
    }
  }

  toggle() {
    if (!this.#bitmap) return;
    this.comparing = !this.comparing;
    this.#draw();
  }

  #draw() {
    const bitmap = this.#bitmap;
    this.editor.overlay(bitmap && { bitmap, split: this.comparing ? this.#split : null });
    set(this.button, "aria-pressed", String(this.comparing));
    this.button.disabled = bitmap === null;
  }
}
