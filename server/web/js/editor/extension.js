import { LIMITS } from "./picture.js";

/** @typedef {import("./rect.js").Rect} Rect */

/** @type {Readonly<Rect>} */
export const NOT_EXTENDED = Object.freeze({ left: 0, top: 0, right: 0, bottom: 0 });

/** @param {Rect} e */
export const isExtended = (e) => e.left + e.top + e.right + e.bottom > 0;

/** @param {Rect} a @param {Rect} b */
export const sameExtension = (a, b) =>
  a.left === b.left && a.top === b.top && a.right === b.right && a.bottom === b.bottom;

/**
 * The four widths as whole pixels, none negative, and no more than the server takes of a picture.
 * @param {Partial<Rect>} wanted @param {number} width of the picture @param {number} height
 * @returns {Rect}
 */
export function fitExtension(wanted, width, height) {
  /** @param {unknown} n */
  const whole = (n) => Math.max(0, Math.round(Number(n) || 0));
  const horizontal = limit(whole(wanted.left), whole(wanted.right), width, height);
  const vertical = limit(whole(wanted.top), whole(wanted.bottom), height, width + horizontal[0] + horizontal[1]);
  return { left: horizontal[0], top: vertical[0], right: horizontal[1], bottom: vertical[1] };
}

/**
 * `before` and `after`, cut so that the side that they are added to stays within the limits, given the other side.
 * @param {number} before @param {number} after @param {number} side @param {number} other
 */
function limit(before, after, side, other) {
  const most = Math.min(LIMITS.maxSide, Math.floor(LIMITS.maxPixels / other), LIMITS.maxAspect * other);
  const room = Math.max(0, most - side);
  const first = Math.min(before, room);
  return [first, Math.min(after, room - first)];
}
