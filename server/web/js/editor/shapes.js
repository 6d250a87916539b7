import { clip, isNothing } from "./rect.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */

/**
 * Set every pixel whose centre is inside the polygon (non-zero winding: a lasso that crosses itself has no hole).
 * @param {Mask} mask
 * @param {number[]} points x, y, x, y, …
 * @param {number} value 0..255
 * @returns {?Rect} what has changed
 */
export function fillPolygon(mask, points, value) {
  const rect = clip(boundsOf(points), mask.width, mask.height);
  if (isNothing(rect)) return null;
  for (let y = rect.top; y < rect.bottom; y++) {
    let winding = 0;
    let from = 0;
    for (const [x, direction] of crossings(points, y + 0.5)) {
      if (winding === 0) from = x;
      winding += direction;
      if (winding === 0) fillSpan(mask, y, from, x, value);
    }
  }
  mask.touch(rect);
  return rect;
}

/** @param {Mask} mask @param {number} y @param {number} from @param {number} to @param {number} value */
function fillSpan(mask, y, from, to, value) {
  const left = Math.max(Math.ceil(from - 0.5), 0);
  const right = Math.min(Math.ceil(to - 0.5), mask.width);
  if (right > left) mask.values.fill(value, y * mask.width + left, y * mask.width + right);
}

/**
 * Where the polygon's edges cross the horizontal line at y, from left to right, with their direction.
 * @param {number[]} points @param {number} y
 */
function crossings(points, y) {
  const found = [];
  const n = points.length;
  for (let i = 0; i < n; i += 2) {
    const [x0, y0] = [points[i], points[i + 1]];
    const [x1, y1] = [points[(i + 2) % n], points[(i + 3) % n]];
    // Half open, so that a corner exactly on the line counts once.
    if (y0 <= y === y1 <= y) continue;
    found.push([x0 + ((y - y0) / (y1 - y0)) * (x1 - x0), y1 > y0 ? 1 : -1]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

/** @param {number[]} points @returns {Rect} */
function boundsOf(points) {
  const rect = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  for (let i = 0; i < points.length; i += 2) {
    rect.left = Math.min(rect.left, Math.floor(points[i]));
    rect.right = Math.max(rect.right, Math.ceil(points[i]));
    rect.top = Math.min(rect.top, Math.floor(points[i + 1]));
    rect.bottom = Math.max(rect.bottom, Math.ceil(points[i + 1]));
  }
  return rect;
}

/**
 * Set a rectangle of pixels. @param {Mask} mask @param {Rect} wanted @param {number} value 0..255
 * @returns {?Rect} what has changed
 */
export function fillRect(mask, wanted, value) {
  const rect = clip(wanted, mask.width, mask.height);
  if (isNothing(rect)) return null;
  for (let y = rect.top; y < rect.bottom; y++) {
    mask.values.fill(value, y * mask.width + rect.left, y * mask.width + rect.right);
  }
  mask.touch(rect);
  return rect;
}
