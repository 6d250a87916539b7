import { clip, isNothing, union } from "./rect.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */

/**
 * One stroke of a round brush, painted into the mask while it is drawn.
 *
 * Every pixel takes the largest coverage along the path and is mixed once from what was there before: a stroke that
 * crosses itself is no stronger there, and the same points always give the same bytes, which undo and drafts rely on.
 */
export class Stroke {
  /** @type {?[number, number]} */
  #last = null;

  /**
   * @param {Mask} mask
   * @param {{size: number, hardness: number, value: number}} brush size in pixels, hardness 0..1, value 0..255
   */
  constructor(mask, { size, hardness, value }) {
    this.mask = mask;
    this.value = value;
    const radius = size / 2;
    this.outer = radius + 0.5; // the edge of a hard brush is one pixel of smoothing, half of it outside
    this.inner = Math.max(0, Math.min(radius * hardness, radius - 0.5));
    this.linear = this.outer - this.inner <= 1;
    /** @type {?Rect} */
    this.rect = null;
    mask.scratch.base.set(mask.values);
  }

  /**
   * Draw on to (x, y), in pixels of the picture.
   * @param {number} x @param {number} y @returns {?Rect} what has changed
   */
  add(x, y) {
    const [x0, y0] = this.#last ?? [x, y];
    this.#last = [x, y];
    const reach = this.outer;
    const box = {
      left: Math.floor(Math.min(x0, x) - reach),
      top: Math.floor(Math.min(y0, y) - reach),
      right: Math.ceil(Math.max(x0, x) + reach),
      bottom: Math.ceil(Math.max(y0, y) + reach),
    };
    const rect = clip(box, this.mask.width, this.mask.height);
    if (isNothing(rect)) return null;
    this.#segment(x0, y0, x - x0, y - y0, rect);
    this.rect = union(this.rect, rect);
    this.mask.touch(rect);
    return rect;
  }

  /**
   * @param {number} x0 @param {number} y0 @param {number} dx @param {number} dy
   * @param {Rect} rect the pixels that it can reach
   */
  #segment(x0, y0, dx, dy, { left, top, right, bottom }) {
    const { values, width, scratch } = this.mask;
    const { cover, base } = scratch;
    const outer2 = this.outer ** 2;
    const perLength2 = 1 / (dx * dx + dy * dy || 1);
    for (let y = top; y < bottom; y++) {
      const py = y + 0.5 - y0;
      for (let x = left, i = y * width + left; x < right; x++, i++) {
        if (cover[i] === 255) continue; // most of a stroke has been here a move ago
        const px = x + 0.5 - x0;
        let t = (px * dx + py * dy) * perLength2;
        t = t < 0 ? 0 : t > 1 ? 1 : t;
        const ex = px - t * dx;
        const ey = py - t * dy;
        const distance2 = ex * ex + ey * ey;
        if (distance2 >= outer2) continue;
        const c = this.#coverage(Math.sqrt(distance2));
        if (c <= cover[i]) continue;
        cover[i] = c;
        values[i] = Math.round(base[i] + ((this.value - base[i]) * c) / 255);
      }
    }
  }

  /** @param {number} distance pixels from the path @returns {number} 0..255 */
  #coverage(distance) {
    if (distance <= this.inner) return 255;
    const u = (this.outer - distance) / (this.outer - this.inner);
    return Math.round(255 * (this.linear ? Math.min(u, 1) : u * u * (3 - 2 * u)));
  }

  /** End the stroke. @returns {?Rect} all that has changed */
  end() {
    this.#eachRow((from, to) => this.mask.scratch.cover.fill(0, from, to));
    return this.rect;
  }

  /** Take the stroke back. @returns {?Rect} all that has changed */
  revert() {
    const { values, scratch } = this.mask;
    this.#eachRow((from, to) => values.set(scratch.base.subarray(from, to), from));
    this.mask.touch(this.rect);
    return this.end();
  }

  /** @param {(from: number, to: number) => void} what is done to each row's part of the stroke's rectangle */
  #eachRow(what) {
    if (!this.rect) return;
    const { left, top, right, bottom } = this.rect;
    for (let y = top; y < bottom; y++) what(y * this.mask.width + left, y * this.mask.width + right);
  }
}
