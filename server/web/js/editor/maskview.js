import { thresholdOf } from "./box.js";
import { context2d } from "./canvas.js";
import { USUAL_LOOK, rgba, tintsOf } from "./look.js";
import { clip, expand, isNothing, whole } from "./rect.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./document.js").Document} Document */
/** @typedef {import("./view.js").View} View */

const MOST_PIXELS = 3_000_000; // of a larger window every second pixel will do
const LIGHT = rgba(255, 255, 255, 0.95); // the outline, inside …
const DARK = rgba(20, 0, 10, 0.75); // … and outside, so that one of them shows on any picture

/**
 * Draws the mask as the window shows it: a colour that lets the picture through, and an outline of what the server
 * will repaint. Sampled at the window's resolution, so that 25 megapixels cost no more than one.
 */
export class MaskView {
  #context;
  #look = { ...USUAL_LOOK };
  #tints = tintsOf(USUAL_LOOK);

  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "editor-mask";
    this.#context = context2d(this.canvas);
    /** CSS pixels a pixel of this canvas. */
    this.scale = 1;
  }

  get look() {
    return this.#look;
  }

  set look(look) {
    this.#look = look;
    this.#tints = tintsOf(look);
  }

  /** @param {number} width CSS pixels @param {number} height */
  resize(width, height) {
    this.scale = Math.max(1, Math.sqrt((width * height) / MOST_PIXELS));
    this.canvas.width = Math.max(1, Math.round(width / this.scale));
    this.canvas.height = Math.max(1, Math.round(height / this.scale));
  }

  clear() {
    this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /**
   * @param {Document} doc @param {View} view
   * @param {?Rect} changed the part of the picture to draw again; null = everything
   * @param {boolean} filled or the outline alone, to see what is being painted
   */
  draw(doc, view, changed, filled) {
    const [width, height] = [this.canvas.width, this.canvas.height];
    const area = changed ? clip(this.#area(changed, view), width, height) : whole(width, height);
    if (isNothing(area)) return;
    const border = expand(area, 1); // the outline looks at its neighbours
    const field = sample(doc, view, this.scale, border);
    const image = this.#context.createImageData(area.right - area.left, area.bottom - area.top);
    paint(field, border.right - border.left, image, thresholdOf(doc.settings), filled ? this.#tints : null);
    this.#context.putImageData(image, area.left, area.top);
    if (filled && this.#look.grey) this.#clearAround(doc, view);
  }

  /** Clear what is not of the picture, which would be black like what is not marked. @param {Document} doc @param {View} view */
  #clearAround({ mask, extend }, view) {
    const [width, height] = [this.canvas.width, this.canvas.height];
    // As in `places`: a pixel counts where its middle is.
    /** @param {number} at of the picture @param {number} offset CSS pixels */
    const edge = (at, offset) => Math.ceil((at * view.zoom + offset) / this.scale - 0.5);
    const [left, right] = [edge(-extend.left, view.x), edge(mask.width + extend.right, view.x)];
    const [top, bottom] = [edge(-extend.top, view.y), edge(mask.height + extend.bottom, view.y)];
    this.#context.clearRect(0, 0, left, height);
    this.#context.clearRect(right, 0, Math.max(width - right, 0), height);
    this.#context.clearRect(0, 0, width, top);
    this.#context.clearRect(0, bottom, width, Math.max(height - bottom, 0));
  }

  /**
   * Where a part of the picture is on this canvas, and three pixels around it.
   * @param {Rect} rect @param {View} view
   */
  #area(rect, view) {
    const a = view.toLocal({ x: rect.left, y: rect.top });
    const b = view.toLocal({ x: rect.right, y: rect.bottom });
    const area = {
      left: Math.floor(a.x / this.scale),
      top: Math.floor(a.y / this.scale),
      right: Math.ceil(b.x / this.scale),
      bottom: Math.ceil(b.y / this.scale),
    };
    // A cell of the pyramid is up to a pixel of this canvas wide.
    return expand(area, 3);
  }
}

const OUTSIDE = -2;
const ADDED = -1;

/**
 * The mask's grey at every pixel of `border`, row by row; what the picture is extended by is 255.
 * @param {Document} doc @param {View} view @param {number} scale CSS pixels a pixel of the canvas @param {Rect} border
 */
function sample(doc, view, scale, border) {
  const { mask, extend } = doc;
  // The coarsest level whose cells are no larger than a pixel here: its cells hold the brightest below them.
  const k = Math.min(Math.max(0, Math.floor(Math.log2(scale / view.zoom))), mask.levels.length - 1);
  const level = mask.levels[k];
  const columns = places(border.left, border.right, scale, view.x, view.zoom, mask.width, extend.left, extend.right, k);
  const rows = places(border.top, border.bottom, scale, view.y, view.zoom, mask.height, extend.top, extend.bottom, k);
  const field = new Uint8Array(columns.length * rows.length);
  for (let j = 0, i = 0; j < rows.length; j++) {
    const row = rows[j] * level.width;
    for (let c = 0; c < columns.length; c++, i++) {
      const column = columns[c];
      if (column === OUTSIDE || rows[j] === OUTSIDE) continue;
      field[i] = column === ADDED || rows[j] === ADDED ? 255 : level.values[row + column];
    }
  }
  return field;
}

/**
 * For every pixel of the canvas along one axis, its cell in level `k`, or that there is none.
 * @param {number} from pixel of the canvas @param {number} to @param {number} scale CSS pixels a pixel of the canvas
 * @param {number} offset CSS pixels @param {number} zoom @param {number} side of the picture
 * @param {number} before what the picture is extended by @param {number} after @param {number} k
 */
function places(from, to, scale, offset, zoom, side, before, after, k) {
  return Int32Array.from({ length: to - from }, (_, i) => {
    const at = Math.floor(((from + i + 0.5) * scale - offset) / zoom);
    if (at >= 0 && at < side) return at >> k;
    return at >= -before && at < side + after ? ADDED : OUTSIDE;
  });
}

/**
 * Draw the outline into `image`, and the tints where they are given.
 * @param {Uint8Array} field the mask's grey, with a border of one pixel @param {number} stride of its rows
 * @param {ImageData} image @param {number} threshold @param {?Uint32Array} tints a colour for each grey
 */
function paint(field, stride, image, threshold, tints) {
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0, at = 0; y < image.height; y++) {
    for (let x = 0, i = (y + 1) * stride + 1; x < image.width; x++, i++, at++) {
      const on = field[i] >= threshold;
      const edge =
        field[i - 1] >= threshold !== on ||
        field[i + 1] >= threshold !== on ||
        field[i - stride] >= threshold !== on ||
        field[i + stride] >= threshold !== on;
      if (edge) pixels[at] = on ? LIGHT : DARK;
      else if (tints !== null) pixels[at] = tints[field[i]];
    }
  }
}
