/** @typedef {import("./rect.js").Rect} Rect */
/** @typedef {{x: number, y: number, tolerance: number, contiguous: boolean}} WandClick x, y a pixel; tolerance 0..255 */
/**
 * What was selected: `values` are the greys of `rect`, row by row, 255 = selected.
 * @typedef {{rect: Rect, values: Uint8Array<ArrayBuffer>}} Selection
 */

// Two levels of a pixel at a time, each in a field of 16 bits with a guard bit above it, which stays set where a
// difference is not negative: a table for each level took twice as long.
const LEVELS = 0x00ff00ff;
const GUARD = 0x01000100;

/**
 * The magic wand: the pixels that look like the one clicked, those that touch it or all. A pixel looks like it if
 * none of red, green, blue and opacity differs by more than the tolerance.
 */
export class Wand {
  /** @type {Uint8Array<ArrayBuffer>} */
  #selected;
  // The least and the most that look like the clicked pixel: red and blue, green and opacity.
  #leastRB = 0;
  #mostRB = 0;
  #leastGA = 0;
  #mostGA = 0;

  /** @param {Int32Array} pixels RGBA as canvases give it @param {number} width @param {number} height */
  constructor(pixels, width, height) {
    this.pixels = pixels;
    this.width = width;
    this.height = height;
    this.#selected = new Uint8Array(pixels.length); // 0 between two clicks
  }

  /** @param {WandClick} click @returns {?Selection} null outside the picture */
  select({ x, y, tolerance, contiguous }) {
    if (!(x >= 0 && y >= 0 && x < this.width && y < this.height)) return null;
    this.#lookLike(this.pixels[y * this.width + x], tolerance);
    const rect = contiguous ? this.#flood(x, y) : this.#everywhere();
    return { rect, values: this.#takeOut(rect) };
  }

  /** @param {number} pixel @param {number} tolerance */
  #lookLike(pixel, tolerance) {
    /** @param {number} shift @param {number} by */
    const level = (shift, by) => Math.min(Math.max(((pixel >>> shift) & 255) + by, 0), 255);
    /** @param {number} low @param {number} by */
    const two = (low, by) => (level(low + 16, by) << 16) | level(low, by);
    [this.#leastRB, this.#mostRB] = [two(0, -tolerance), two(0, tolerance) | GUARD];
    [this.#leastGA, this.#mostGA] = [two(8, -tolerance), two(8, tolerance) | GUARD];
  }

  /** @returns {Rect} around what is now in `#selected` */
  #everywhere() {
    const { pixels, width, height } = this;
    const selected = this.#selected;
    const [leastRB, mostRB, leastGA, mostGA] = [this.#leastRB, this.#mostRB, this.#leastGA, this.#mostGA];
    for (let i = 0; i < pixels.length; i++) {
      const rb = pixels[i] & LEVELS;
      const ga = (pixels[i] >> 8) & LEVELS;
      const near = ((rb | GUARD) - leastRB) & (mostRB - rb) & ((ga | GUARD) - leastGA) & (mostGA - ga) & GUARD;
      selected[i] = -((near >> 8) & (near >> 24) & 1); // without a branch: noise would mispredict it
    }
    const found = { left: width, top: height, right: 0, bottom: 0 };
    for (let y = 0; y < height; y++) {
      const row = selected.subarray(y * width, (y + 1) * width);
      const first = row.indexOf(255);
      if (first >= 0) widen(found, first, row.lastIndexOf(255), y);
    }
    return found;
  }

  /**
   * Fill runs, one row after the other. Each run on the stack has a row to look at, above or below where it came
   * from, and the part of it that touches.
   * @param {number} startX @param {number} startY @returns {Rect} around what is now in `#selected`
   */
  #flood(startX, startY) {
    const { pixels, width, height } = this;
    const selected = this.#selected;
    const [leastRB, mostRB, leastGA, mostGA] = [this.#leastRB, this.#mostRB, this.#leastGA, this.#mostGA];
    const found = { left: width, top: height, right: 0, bottom: 0 };
    /** @param {number} i */
    const open = (i) => {
      if (selected[i] !== 0) return false;
      const rb = pixels[i] & LEVELS;
      const ga = (pixels[i] >> 8) & LEVELS;
      const near = ((rb | GUARD) - leastRB) & (mostRB - rb) & ((ga | GUARD) - leastGA) & (mostGA - ga) & GUARD;
      return near === GUARD;
    };
    const stack = new Stack();
    stack.push(startX, startX, startY, 0);
    while (stack.pop()) {
      const { left, right, y, from } = stack;
      const row = y * width;
      for (let x = left; x <= right; x++) {
        if (!open(row + x)) continue;
        let first = row + x;
        while (first > row && open(first - 1)) first--;
        let end = row + x + 1;
        while (end < row + width && open(end)) end++;
        selected.fill(255, first, end);
        widen(found, first - row, end - row - 1, y);
        // Back to where it came from only beyond the run that led here.
        if (y > 0) pushRow(stack, first - row, end - row - 1, y, -1, from, left, right);
        if (y + 1 < height) pushRow(stack, first - row, end - row - 1, y, 1, from, left, right);
        x = end - row; // the pixel there is none of these
      }
    }
    return found;
  }

  /** Copy the rectangle out, and leave `#selected` empty. @param {Rect} rect */
  #takeOut({ left, top, right, bottom }) {
    const width = right - left;
    const values = new Uint8Array(width * (bottom - top));
    for (let y = top; y < bottom; y++) {
      const row = this.#selected.subarray(y * this.width + left, y * this.width + right);
      values.set(row, (y - top) * width);
      row.fill(0);
    }
    return values;
  }
}

/**
 * Put the row next to a run on the stack.
 * @param {Stack} stack @param {number} first of the run @param {number} last @param {number} y its row
 * @param {-1|1} step to the row to look at @param {number} from the step that led to this run, 0 = none
 * @param {number} left of the run that led here, in its row @param {number} right
 */
function pushRow(stack, first, last, y, step, from, left, right) {
  if (step !== -from) return stack.push(first, last, y + step, step);
  if (first < left) stack.push(first, left - 1, y + step, step);
  if (last > right) stack.push(right + 1, last, y + step, step);
}

/** @param {Rect} found @param {number} first @param {number} last @param {number} y */
function widen(found, first, last, y) {
  if (first < found.left) found.left = first;
  if (last >= found.right) found.right = last + 1;
  if (y < found.top) found.top = y;
  if (y >= found.bottom) found.bottom = y + 1;
}

/** A stack of runs in one array of numbers: a noisy picture has millions of them. */
class Stack {
  #items = new Int32Array(4096);
  #size = 0;
  left = 0;
  right = 0;
  y = 0;
  from = 0;

  /** @param {number} left @param {number} right @param {number} y @param {number} from */
  push(left, right, y, from) {
    if (this.#size === this.#items.length) {
      const more = new Int32Array(2 * this.#size);
      more.set(this.#items);
      this.#items = more;
    }
    const at = this.#size;
    this.#items[at] = left;
    this.#items[at + 1] = right;
    this.#items[at + 2] = y;
    this.#items[at + 3] = from;
    this.#size += 4;
  }

  /** Take the last one into the fields. @returns {boolean} whether there was one */
  pop() {
    if (this.#size === 0) return false;
    this.#size -= 4;
    const [items, at] = [this.#items, this.#size];
    this.left = items[at];
    this.right = items[at + 1];
    this.y = items[at + 2];
    this.from = items[at + 3];
    return true;
  }
}
