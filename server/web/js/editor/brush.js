import { clip, isNothing, union } from "./rect.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */

/** @typedef {"size"|"opacity"} PressedInto what a pen's pressure changes */
/** @typedef {{outer: number, inner: number, share: number}} Tip radii and opacity at one pressure */

/**
 * One stroke of a round brush, painted into the mask while it is drawn.
 *
 * Every pixel takes the largest coverage along the path and is mixed once from what was there before: a stroke that
 * crosses itself is no stronger there, and the same points always give the same bytes, which undo and drafts rely on.
 */
export class Stroke {
  /** @type {?{x: number, y: number, tip: Tip}} */
  #last = null;

  /**
   * @param {Mask} mask
   * @param {{size: number, hardness: number, value: number, pressure?: PressedInto}} brush size in pixels, hardness
   *   0..1, value 0..255
   */
  constructor(mask, brush) {
    this.mask = mask;
    this.brush = brush;
    this.value = brush.value;
    /** @type {?Rect} */
    this.rect = null;
    mask.scratch.base.set(mask.values);
  }

  /** @param {number} pressure 0..1 @returns {Tip} */
  #tip(pressure) {
    const { size, hardness, pressure: into } = this.brush;
    const radius = Math.max((into === "size" ? size * pressure : size) / 2, 0.5);
    return {
      outer: radius + 0.5, // the edge of a hard brush is one pixel of smoothing, half of it outside
      inner: Math.max(0, Math.min(radius * hardness, radius - 0.5)),
      share: into === "opacity" ? pressure : 1,
    };
  }

  /**
   * Draw on to (x, y), in pixels of the picture.
   * @param {number} x @param {number} y @param {number} [pressure] 0..1 @returns {?Rect} what has changed
   */
  add(x, y, pressure = 1) {
    const to = { x, y, tip: this.#tip(pressure) };
    const from = this.#last ?? to;
    const [x0, y0] = [from.x, from.y];
    this.#last = to;
    const reach = Math.max(from.tip.outer, to.tip.outer);
    const box = {
      left: Math.floor(Math.min(x0, x) - reach),
      top: Math.floor(Math.min(y0, y) - reach),
      right: Math.ceil(Math.max(x0, x) + reach),
      bottom: Math.ceil(Math.max(y0, y) + reach),
    };
    const rect = clip(box, this.mask.width, this.mask.height);
    if (isNothing(rect)) return null;
    this.#segment(from, to, rect);
    this.rect = union(this.rect, rect);
    this.mask.touch(rect);
    return rect;
  }

  /**
   * @param {{x: number, y: number, tip: Tip}} from @param {{x: number, y: number, tip: Tip}} to
   * @param {Rect} rect the pixels that it can reach
   */
  #segment({ x: x0, y: y0, tip }, to, { left, top, right, bottom }) {
    const [dx, dy] = [to.x - x0, to.y - y0];
    // What the tip becomes on the way; without a pen's pressure, nothing else.
    const [outerMore, innerMore] = [to.tip.outer - tip.outer, to.tip.inner - tip.inner];
    const shareMore = to.tip.share - tip.share;
    const { values, width, scratch } = this.mask;
    const { cover, base } = scratch;
    const outer2 = Math.max(tip.outer, to.tip.outer) ** 2;
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
        const covered = coverage(Math.sqrt(distance2), tip.outer + t * outerMore, tip.inner + t * innerMore);
        const c = Math.round(255 * covered * (tip.share + t * shareMore));
        if (c <= cover[i]) continue;
        cover[i] = c;
        values[i] = Math.round(base[i] + ((this.value - base[i]) * c) / 255);
      }
    }
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

/** @param {number} distance pixels from the path @param {number} outer radius @param {number} inner @returns {number} 0..1 */
function coverage(distance, outer, inner) {
  if (distance <= inner) return 1;
  if (distance >= outer) return 0;
  const u = (outer - distance) / (outer - inner);
  return outer - inner <= 1 ? Math.min(u, 1) : u * u * (3 - 2 * u);
}
