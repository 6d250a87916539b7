import { byId, h, set } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

/** @typedef {import("./editor/editor.js").Editor} Editor */

/** A tool, the word below its icon, what it does, its key. @type {() => [import("./editor/editor.js").Tool, string, string, string][]} */
const toolsNow = () => [
  ["brush", t("Brush"), t("Brush"), "B"],
  ["eraser", t("Eraser"), t("Eraser"), "E"],
  ["lasso", t("Lasso"), t("Lasso"), "L"],
  ["polygon", t("Polygon"), t("Polygon: a corner a click; Enter or a double click closes it"), "P"],
  ["rectangle", t("Rectangle"), t("Rectangle"), "R"],
  ["pan", t("Move"), t("Move the view"), "H"],
  ["wand", t("Wand"), t("Magic wand: mark what has the colour of the pixel that you click"), "W"],
];
const SIZES = 100; // stops of the size slider
const LARGEST = 1000; // px of the picture

/** The tools at the left and their options above the picture. */
export class Tools {
  /** @type {Map<import("./editor/editor.js").Tool, HTMLButtonElement>} */
  #buttons = new Map();
  #alpha;
  #size = byId("brush-size");
  #hardness = byId("brush-hardness");
  #strength = byId("brush-strength");
  #tolerance = byId("tolerance");
  #contiguous = byId("contiguous");
  #subtracting = byId("subtracting");
  #by = byId("grow-by");

  /** @param {Editor} editor @param {() => void} chooseMask opens the file picker for one */
  constructor(editor, chooseMask) {
    this.editor = editor;
    this.#alpha = toolButton("alpha", t("Alpha"), t("Alpha: mark what is transparent"), () => editor.maskFromAlpha());
    this.#build(byId("tools"), chooseMask);
    this.#size.addEventListener("input", () => (editor.brush = { size: sizeAt(Number(this.#size.value)) }));
    this.#hardness.addEventListener("input", () => (editor.brush = { hardness: this.#hardness.value / 100 }));
    this.#strength.addEventListener("input", () => (editor.brush = { strength: this.#strength.value / 100 }));
    this.#tolerance.addEventListener("input", () => (editor.wand = { tolerance: Number(this.#tolerance.value) }));
    this.#contiguous.addEventListener("change", () => (editor.wand = { contiguous: this.#contiguous.checked }));
    this.#subtracting.addEventListener("change", () => (editor.subtracting = this.#subtracting.checked));
    editor.addEventListener("tool", () => this.#show());
    editor.addEventListener("change", () => this.#show());
    this.#show();
  }

  /** @param {HTMLElement} place @param {() => void} chooseMask */
  #build(place, chooseMask) {
    for (const [tool, word, label, key] of toolsNow()) {
      const button = toolButton(tool, word, `${label} (${key})`, () => (this.editor.tool = tool));
      this.#buttons.set(tool, button);
      place.append(button);
    }
    const by = () => Number(this.#by.value) || 1;
    const { editor } = this;
    place.append(
      h("hr"),
      toolButton("fill", t("All"), t("Mark all of the picture"), () => editor.fill()),
      toolButton("invert", t("Invert"), t("Invert the mask (X)"), () => editor.invert()),
      toolButton("grow", t("Grow"), t("Grow the mask"), () => editor.grow(by())),
      toolButton("shrink", t("Shrink"), t("Shrink the mask"), () => editor.grow(-by())),
      toolButton("clear", t("Clear"), t("Clear the mask"), () => editor.clear()),
      h("hr"),
      toolButton("upload", t("File"), t("Mask from a file"), chooseMask),
      this.#alpha,
    );
  }

  #show() {
    const { tool, brush, wand, picture } = this.editor;
    for (const [name, button] of this.#buttons) set(button, "aria-pressed", String(name === tool));
    for (const option of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#options [data-for]"))) {
      option.hidden = !option.dataset.for?.split(" ").includes(tool);
    }
    this.#size.value = String(stopOf(brush.size));
    byId("brush-size-value").textContent = `${Math.round(brush.size)} px`;
    this.#hardness.value = String(Math.round(brush.hardness * 100));
    this.#strength.value = String(Math.round(brush.strength * 100));
    byId("hardness-value").textContent = `${this.#hardness.value} %`;
    byId("strength-value").textContent = `${this.#strength.value} %`;
    this.#tolerance.value = String(wand.tolerance);
    byId("tolerance-value").textContent = String(wand.tolerance);
    this.#contiguous.checked = wand.contiguous;
    this.#subtracting.checked = this.editor.subtracting;
    this.#alpha.disabled = picture !== null && !picture.hasAlpha;
  }
}

/** @param {import("./icons.js").Icon} name @param {string} word @param {string} label @param {() => void} run */
function toolButton(name, word, label, run) {
  const attributes = { type: "button", class: "icon-button tool", title: label, "aria-label": label };
  const text = h("span", { class: "tool-word" }, word);
  return h("button", { ...attributes, "data-testid": `tool-${name}`, click: run }, icon(name), text);
}

// A logarithmic slider: a step of 1 px matters at 4 px, not at 400.
/** @param {number} stop */
const sizeAt = (stop) => Math.round(LARGEST ** (stop / SIZES));
/** @param {number} size */
const stopOf = (size) => Math.round((Math.log(size) / Math.log(LARGEST)) * SIZES);
