import { byId, h, set } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { Options } from "./options.js";

/** @typedef {import("./editor/editor.js").Editor} Editor @typedef {import("./editor/editor.js").Tool} Tool */
/** @typedef {[tool: Tool, word: string, label: string, key: string]} Row the word stands below the icon */

const GROW_BY = { type: "number", id: "grow-by", "data-testid": "grow-by", min: 1, max: 256, value: 8 };

/** @returns {Row[]} */
const drawing = () => [
  ["brush", t("Brush"), t("Brush"), "B"],
  ["eraser", t("Eraser"), t("Eraser"), "E"],
  ["lasso", t("Lasso"), t("Lasso"), "L"],
  ["polygon", t("Polygon"), t("Polygon: a corner a click; Enter or a double click closes it"), "P"],
  ["rectangle", t("Rectangle"), t("Rectangle"), "R"],
  ["pan", t("Move"), t("Move the view"), "H"],
];
/** @returns {Row[]} */
const choosing = () => [
  ["wand", t("Wand"), t("Magic wand: mark what has the colour of the pixel that you click"), "W"],
  ["snap", t("Snap"), t("Snap: draw roughly over an object, and it is marked to its edge"), "S"],
  ["click", t("Click"), t("Click an object to mark it, or drag a box around it"), "A"],
];

/** The tools at the left, and their options above the picture. */
export class Tools {
  /** @type {Map<Tool, HTMLButtonElement>} */
  #buttons = new Map();
  /** Those that need the server. @type {HTMLButtonElement[]} */
  #asking;
  #alpha;
  #by = h("input", { ...GROW_BY, "aria-label": t("Pixels to grow or shrink the mask by") });

  /**
   * @param {Editor} editor @param {import("./selecting.js").Selecting} selecting
   * @param {() => void} chooseMask opens the file picker for one
   */
  constructor(editor, selecting, chooseMask) {
    this.editor = editor;
    this.selecting = selecting;
    this.options = new Options(editor, selecting);
    this.#alpha = toolButton("alpha", t("Alpha"), t("Alpha: mark what is transparent"), () => editor.maskFromAlpha());
    this.#asking = [
      toolButton("subject", t("Subject"), t("Select the subject: the main thing"), () => selecting.choose("subject")),
      toolButton("background", t("Background"), t("Select the background"), () => selecting.choose("background")),
    ];
    this.#build(byId("tools"), chooseMask);
    editor.addEventListener("tool", () => this.show());
    editor.addEventListener("change", () => this.show());
    this.show();
  }

  /** @param {HTMLElement} place @param {() => void} chooseMask */
  #build(place, chooseMask) {
    const by = () => Number(this.#by.value) || 1;
    const { editor } = this;
    place.append(
      ...this.#rows(drawing()),
      h("hr"),
      ...this.#rows(choosing()),
      ...this.#asking,
      h("hr"),
      toolButton("fill", t("All"), t("Mark all of the picture"), () => editor.fill()),
      toolButton("invert", t("Invert"), t("Invert the mask (X)"), () => editor.invert()),
      toolButton("grow", t("Grow"), t("Grow the mask"), () => editor.grow(by())),
      toolButton("shrink", t("Shrink"), t("Shrink the mask"), () => editor.grow(-by())),
      h("label", { class: "tool-by" }, t("by px"), this.#by),
      toolButton("clear", t("Clear"), t("Clear the mask"), () => editor.clear()),
      h("hr"),
      toolButton("upload", t("File"), t("Mask from a file"), chooseMask),
      this.#alpha,
    );
    for (const name of /** @type {const} */ (["snap", "click"])) {
      const button = this.#buttons.get(name);
      if (button) this.#asking.push(button);
    }
  }

  /** @param {Row[]} rows */
  #rows(rows) {
    return rows.map(([tool, word, label, key]) => {
      const button = toolButton(tool, word, `${label} (${key})`, () => (this.editor.tool = tool));
      this.#buttons.set(tool, button);
      return button;
    });
  }

  show() {
    const { tool, picture } = this.editor;
    for (const [name, button] of this.#buttons) set(button, "aria-pressed", String(name === tool));
    this.#alpha.disabled = picture !== null && !picture.hasAlpha;
    for (const button of this.#asking) button.disabled = !this.selecting.offer();
    this.options.show();
  }
}

/** @param {import("./icons.js").Icon} name @param {string} word @param {string} label @param {() => void} run */
function toolButton(name, word, label, run) {
  const attributes = { type: "button", class: "icon-button tool", title: label, "aria-label": label };
  const text = h("span", { class: "tool-word" }, word);
  return h("button", { ...attributes, "data-testid": `tool-${name}`, click: run }, icon(name), text);
}
