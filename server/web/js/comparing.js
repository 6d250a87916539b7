import { detailOf, set } from "./dom.js";

/** @typedef {import("./editor/editor.js").Editor} Editor @typedef {import("./results.js").Result} Result */

const MIDDLE = 0.5;

/** The selected result over the working picture: all of it, the part right of a divider, or hidden. */
export class Comparing {
  /** @type {?{bitmap: ImageBitmap, rect: ?import("./editor/rect.js").Rect}} */
  #shown = null;
  #turn = 0;
  #split = MIDDLE;
  comparing = false;

  /**
   * @param {Editor} editor @param {import("./wholes.js").Wholes} wholes @param {HTMLButtonElement} button
   * @param {(error: unknown) => void} fail
   */
  constructor(editor, wholes, button, fail) {
    this.editor = editor;
    this.wholes = wholes;
    this.button = button;
    this.fail = fail;
    editor.addEventListener("split", (event) => (this.#split = detailOf(event)));
    this.#draw();
  }

  /** @param {?Result} result null shows the picture and its mask again */
  async show(result) {
    const turn = ++this.#turn;
    try {
      const shown = result && (await this.wholes.overlay(result));
      if (turn !== this.#turn) return shown?.bitmap.close(); // another one was selected meanwhile
      this.#shown?.bitmap.close();
      this.#shown = shown;
      if (!shown) this.comparing = false;
      this.#draw();
    } catch (error) {
      this.fail(error);
    }
  }

  toggle() {
    if (!this.#shown) return;
    this.comparing = !this.comparing;
    this.#draw();
  }

  #draw() {
    const shown = this.#shown;
    this.editor.overlay(shown && { ...shown, split: this.comparing ? this.#split : null });
    set(this.button, "aria-pressed", String(this.comparing));
    this.button.disabled = shown === null;
  }
}
