import { clip, isNothing } from "./rect.js";

/** @typedef {import("./rect.js").Rect} Rect */
/** @typedef {{width: number, height: number, values: Uint8Array<ArrayBuffer>}} Level one byte a cell, row by row */

const SMALLEST_LEVEL = 64; // px; a level that fits here is the last
const COARSE = 4; // the level on which bounds are looked for first: cells of 16 × 16

/**
 * The mask: one byte a pixel, 255 = repaint. Bytes of our own and not a canvas, because browsers that resist
 * fingerprinting add noise to what is read from a canvas, and because a quarter of the memory is enough.
 *
 * It also keeps a pyramid in which every cell is the brightest of the four below it: a zoomed-out mask is drawn
 * without losing a speck, and bounds are found without looking at every pixel. Code that writes into `values` calls
 * `touch`.
 */
export class Mask {
  /** @type {?{cover: Uint8Array, base: Uint8Array}} */
  #scratch = null;

  /** @param {number} width pixels @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.values = new Uint8Array(width * height);
    /** @type {Level[]} */
    this.levels = [this];
    /** @type {Level} */
    let level = this;
    while (Math.max(level.width, level.height) > SMALLEST_LEVEL) {
      const [w, h] = [Math.ceil(level.width / 2), Math.ceil(level.height / 2)];
      level = { width: w, height: h, values: new Uint8Array(w * h) };
      this.levels.push(level);
    }
  }

  /** Buffers for one stroke at a time: what it covers (0 between strokes), and the mask before it. */
  get scratch() {
    const n = this.values.length;
    return (this.#scratch ??= { cover: new Uint8Array(n), base: new Uint8Array(n) });
  }

  /** Be what another one is, which is not used any more. @param {Mask} other of the same size */
  become({ values, levels }) {
    this.values = values;
    this.levels = [this, ...levels.slice(1)];
  }

  /** Bring the pyramid up to date where `values` has changed. @param {?Rect} rect */
  touch(rect) {
    if (!rect) return;
    let { left, top, right, bottom } = clip(rect, this.width, this.height);
    for (let k = 1; k < this.levels.length; k++) {
      [left, top, right, bottom] = [left >> 1, top >> 1, (right + 1) >> 1, (bottom + 1) >> 1];
      halve(this.levels[k - 1], this.levels[k], left, top, right, bottom);
    }
  }

  /** The box around all pixels of `threshold` or more, or null. @param {number} threshold @returns {?Rect} */
  bounds(threshold) {
    const k = Math.min(COARSE, this.levels.length - 1);
    const coarse = rowsAndColumns(this.levels[k], threshold);
    return coarse && this.#refine(coarse, 1 << k, threshold);
  }

  /**
   * @param {Rect} coarse the bounds in cells @param {number} cell pixels a side @param {number} threshold
   * @returns {?Rect} the bounds in pixels
   */
  #refine(coarse, cell, threshold) {
    const { values, width } = this;
    const search = clip(
      { left: coarse.left * cell, top: coarse.top * cell, right: coarse.right * cell, bottom: coarse.bottom * cell },
      width,
      this.height,
    );
    const found = { left: search.right, top: search.bottom, right: search.left, bottom: search.top };
    for (let y = search.top; y < search.bottom; y++) {
      const row = y * width;
      // From either side as far as the best so far: the middle of the mask is never read.
      let x = search.left;
      const firstStop = y < search.top + cell || y >= search.bottom - cell ? search.right : found.left;
      while (x < firstStop && values[row + x] < threshold) x++;
      if (x < firstStop) {
        found.left = Math.min(found.left, x);
        found.top = Math.min(found.top, y);
        found.bottom = y + 1;
      }
      x = search.right - 1;
      while (x >= found.right && values[row + x] < threshold) x--;
      if (x >= found.right) found.right = x + 1;
    }
    return isNothing(found) ? null : found;
  }
}

/**
 * Set the cells of `to` within the rectangle from the four of `from` below each.
 * @param {Level} from @param {Level} to
 * @param {number} left cells of `to` @param {number} top @param {number} right @param {number} bottom
 */
function halve(from, to, left, top, right, bottom) {
  const { values, width, height } = from;
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
  const pairs = Math.min(right, width >> 1) - 1; // from here on there are no four pixels to look at
  for (let y = top; y < bottom; y++) {
    const upper = 2 * y * width;
    const lower = 2 * y + 1 < height ? upper + width : upper;
    const row = y * to.width;
    for (let x = left; x < right; x++) {
      if (x < pairs) {
        // Most of a mask is all white or all black: two cells at a time.
        const word = view.getInt32(upper + 2 * x, true);
        if ((word === 0 || word === -1) && word === view.getInt32(lower + 2 * x, true)) {
          to.values[row + x] = to.values[row + ++x] = word;
          continue;
        }
      }
      const a = 2 * x;
      const b = a + 1 < width ? a + 1 : a;
      const one = values[upper + a] > values[upper + b] ? values[upper + a] : values[upper + b];
      const two = values[lower + a] > values[lower + b] ? values[lower + a] : values[lower + b];
      to.values[row + x] = one > two ? one : two;
    }
  }
}

/** The box around all cells of `threshold` or more. @param {Level} level @param {number} threshold @returns {?Rect} */
function rowsAndColumns({ values, width, height }, threshold) {
  const found = { left: width, top: height, right: 0, bottom: 0 };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (values[y * width + x] < threshold) continue;
      if (x < found.left) found.left = x;
      if (x >= found.right) found.right = x + 1;
      if (y < found.top) found.top = y;
      found.bottom = y + 1;
    }
  }
  return isNothing(found) ? null : found;
}
