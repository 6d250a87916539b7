/**
 * Rectangles of whole pixels: `right` and `bottom` excluded.
 * @typedef {{left: number, top: number, right: number, bottom: number}} Rect
 */

/** @param {Rect} r */
export const isNothing = (r) => r.right <= r.left || r.bottom <= r.top;

/**
 * The part of `r` inside `width` × `height`.
 * @param {Rect} r @param {number} width @param {number} height @returns {Rect}
 */
export function clip(r, width, height) {
  return {
    left: Math.min(Math.max(r.left, 0), width),
    top: Math.min(Math.max(r.top, 0), height),
    right: Math.max(Math.min(r.right, width), 0),
    bottom: Math.max(Math.min(r.bottom, height), 0),
  };
}

/** The smallest rectangle around both; either may be null. @param {?Rect} a @param {?Rect} b @returns {?Rect} */
export function union(a, b) {
  if (!a || isNothing(a)) return b && !isNothing(b) ? b : null;
  if (!b || isNothing(b)) return a;
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

/** @param {Rect} r @param {number} by @returns {Rect} */
export const expand = (r, by) => ({
  left: r.left - by,
  top: r.top - by,
  right: r.right + by,
  bottom: r.bottom + by,
});

/** @param {number} width @param {number} height @returns {Rect} */
export const whole = (width, height) => ({ left: 0, top: 0, right: width, bottom: height });
