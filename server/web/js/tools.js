import { byId, h, set } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {import("./editor/editor.js").Editor} Editor */

/** @type {[import("./editor/editor.js").Tool, string, string][]} */
const TOOLS = [
  ["brush", "Brush", "B"],
  ["eraser", "Eraser", "E"],
  ["lasso", "Lasso", "L"],
  ["rectangle", "Rectangle", "R"],
  ["pan", "Move the view", "H"],
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
  #by = byId("grow-by");

  /** @param {Editor} editor @param {() => void} chooseMask opens the file picker for one */
  constructor(editor, chooseMask) {
    this.editor = editor;
    this.#alpha = toolButton("alpha", "Mask from the picture's transparency", () => editor.maskFromAlpha());
    this.#build(byId("tools"), chooseMask);
    this.#size.addEventListener("input", () => (editor.brush = { size: sizeAt(Number(this.#size.value)) }));
    this.#hardness.addEventListener("input", () => (editor.brush = { hardness: this.#hardness.value / 100 }));
    this.#strength.addEventListener("input", () => (editor.brush = { strength: this.#strength.value / 100 }));
    editor.addEventListener("tool", () => this.#show());
    editor.addEventListener("change", () => this.#show());
    this.#show();
  }

  /** @param {number} factor of the brush's size */
  resizeBrush(factor) {
    const { size } = this.editor.brush;
    const wanted = Math.round(size * factor); // and at least a pixel more or less
    this.editor.brush = { size: factor > 1 ? Math.max(wanted, size + 1) : Math.min(wanted, size - 1) };
  }

  /** @param {HTMLElement} place @param {() => void} chooseMask */
  #build(place, chooseMask) {
    for (const [tool, label, key] of TOOLS) {
      const button = toolButton(tool, `${label} (${key})`, () => (this.editor.tool = tool));
      this.#buttons.set(tool, button);
      place.append(button);
    }
    const by = () => Number(this.#by.value) || 1;
    const { editor } = this;
    place.append(
      h("hr"),
      toolButton("fill", "Mark everything", () => editor.fill()),
      toolButton("invert", "Invert the mask (X)", () => editor.invert()),
      toolButton("grow", "Grow the mask", () => editor.grow(by())),
      toolButton("shrink", "Shrink the mask", () => editor.grow(-by())),
      toolButton("clear", "Clear the mask", () => editor.clear()),
      h("hr"),
      toolButton("upload", "Mask from a file", chooseMask),
      this.#alpha,
    );
  }

  #show() {
    const { tool, brush, picture } = this.editor;
    for (const [name, button] of this.#buttons) set(button, "aria-pressed", String(name === tool));
    this.#size.value = String(stopOf(brush.size));
    byId("brush-size-value").textContent = `${Math.round(brush.size)} px`;
    this.#hardness.value = String(Math.round(brush.hardness * 100));
    this.#strength.value = String(Math.round(brush.strength * 100));
    byId("hardness-value").textContent = `${this.#hardness.value} %`;
    byId("strength-value").textContent = `${this.#strength.value} %`;
    this.#alpha.disabled = picture !== null && !picture.hasAlpha;
  }
}

/** @param {import("./icons.js").Icon} name @param {string} label @param {() => void} run */
function toolButton(name, label, run) {
  const attributes = { type: "button", class: "icon-button", title: label, "aria-label": label };
  return h("button", { ...attributes, "data-testid": `tool-${name}`, click: run }, icon(name));
}

// A logarithmic slider: a step of 1 px matters at 4 px, not at 400.
/** @param {number} stop */
const sizeAt = (stop) => Math.round(LARGEST ** (stop / SIZES));
/** @param {number} size */
const stopOf = (size) => Math.round((Math.log(size) / Math.log(LARGEST)) * SIZES);
