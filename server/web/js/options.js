import { byId } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./editor/editor.js").Editor} Editor */

const SIZES = 100; // stops of the size slider
const LARGEST = 1000; // px of the picture
const STORED = "inpaint-tools";

/** The options of the chosen tool, above the picture, and how the mask is shown; this browser remembers them. */
export class Options {
  /** @param {Editor} editor @param {import("./selecting.js").Selecting} selecting */
  constructor(editor, selecting) {
    this.editor = editor;
    this.selecting = selecting;
    this.#restore();
    /** @type {[string, (field: any) => void][]} */
    const fields = [
      ["brush-size", ({ value }) => (editor.brush = { size: sizeAt(Number(value)) })],
      ["brush-hardness", ({ value }) => (editor.brush = { hardness: value / 100 })],
      ["brush-strength", ({ value }) => (editor.brush = { strength: value / 100 })],
      ["pressure", ({ value }) => (editor.pressure = value)],
      ["tolerance", ({ value }) => (editor.wand = { tolerance: Number(value) })],
      ["contiguous", ({ checked }) => (editor.wand = { contiguous: checked })],
      ["snap-shape", ({ value }) => (editor.snapShape = value)],
      ["variant", ({ value }) => (selecting.variant = value)],
      ["subtracting", ({ checked }) => (editor.subtracting = checked)],
      ["mask-colour", ({ value }) => (editor.look = { colour: value })],
      ["mask-opacity", ({ value }) => (editor.look = { opacity: value / 100 })],
      ["mask-grey", ({ checked }) => (editor.look = { grey: checked })],
    ];
    for (const [id, take] of fields) byId(id).addEventListener("input", () => take(byId(id)));
    for (const type of ["tool", "change"]) editor.addEventListener(type, () => this.show());
    editor.addEventListener("tool", () => this.#store());
    byId("host").addEventListener("pointerdown", () => (byId("look").open = false));
    this.show();
  }

  show() {
    const { tool, brush, wand, look } = this.editor;
    for (const option of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#options [data-for]"))) {
      option.hidden = !option.dataset.for?.split(" ").includes(tool);
    }
    const missing = this.selecting.offer()?.missing.sam;
    byId("select-hint").hidden ||= !missing;
    byId("select-hint").textContent = missing ? t("Better with SAM 2: {command}", { command: missing }) : "";
    /** @type {[string, number, string][]} */
    const sliders = [
      ["brush-size", stopOf(brush.size), `${Math.round(brush.size)} px`],
      ["brush-hardness", Math.round(brush.hardness * 100), `${Math.round(brush.hardness * 100)} %`],
      ["brush-strength", Math.round(brush.strength * 100), `${Math.round(brush.strength * 100)} %`],
      ["tolerance", wand.tolerance, String(wand.tolerance)],
      ["mask-opacity", Math.round(look.opacity * 100), `${Math.round(look.opacity * 100)} %`],
    ];
    for (const [id, value, text] of sliders) {
      byId(id).value = String(value);
      byId(`${id}-value`).textContent = text;
    }
    byId("pressure").value = this.editor.pressure;
    byId("snap-shape").value = this.editor.snapShape;
    byId("variant").value = this.selecting.variant;
    byId("contiguous").checked = wand.contiguous;
    byId("subtracting").checked = this.editor.subtracting;
    byId("mask-colour").value = look.colour;
    byId("mask-grey").checked = look.grey;
  }

  #store() {
    const { brush, wand, look, pressure, snapShape } = this.editor;
    try {
      localStorage.setItem(STORED, JSON.stringify({ brush, wand, look, pressure, snapShape }));
    } catch {
      // A browser that keeps nothing begins anew each time.
    }
  }

  #restore() {
    const { brush, wand, look, pressure, snapShape } = stored();
    const { editor } = this;
    if (brush?.size > 0) editor.brush = brush;
    if (wand?.tolerance >= 0) editor.wand = wand;
    if (look) editor.look = look;
    if (["none", "size", "opacity"].includes(pressure)) editor.pressure = pressure;
    if (["stroke", "box"].includes(snapShape)) editor.snapShape = snapShape;
  }
}

/** What `#store` wrote, or nothing. @returns {any} */
function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

// A logarithmic slider: a step of 1 px matters at 4 px, not at 400.
/** @param {number} stop */
const sizeAt = (stop) => Math.round(LARGEST ** (stop / SIZES));
/** @param {number} size */
const stopOf = (size) => Math.round((Math.log(size) / Math.log(LARGEST)) * SIZES);
