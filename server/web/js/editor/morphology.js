import { clip, expand, whole } from "./rect.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./mask.js").Level} Region */

const ALWAYS = [8, 64, 128, 192, 248]; // 128 and 8 are the server's thresholds (8 if soft), 248 is 8's complement
const PLATEAU = 1 / 64; // of the painted pixels: a grey that was chosen, not the edge of a brush
const MOST_PLATEAUS = 8;

/**
 * Grow the mask by `px` pixels in every direction, exactly Euclidean at both thresholds of the server; a negative
 * number shrinks it. Grey is kept: every level of grey grows by itself. What touches the picture's edge does not
 * shrink from there.
 * @param {Mask} mask @param {number} px @returns {?Rect} what has changed
 */
export function grow(mask, px) {
  const rect = reach(mask, px);
  return rect && putBack(mask, rect, grown(cutOut(mask, rect), px));
}

/** The part of the mask that growing by `px` may change. @param {Mask} mask @param {number} px @returns {?Rect} */
export function reach(mask, px) {
  const radius = radiusOf(px, mask);
  const bounds = radius === 0 ? null : mask.bounds(1);
  return bounds && clip(expand(bounds, radius + 1), mask.width, mask.height);
}

/** @param {Mask} mask @param {Rect} rect @param {Uint8Array} values its greys @returns {Rect} what has changed */
export function putBack(mask, rect, values) {
  const width = rect.right - rect.left;
  for (let y = rect.top; y < rect.bottom; y++) {
    const row = values.subarray((y - rect.top) * width, (y - rect.top + 1) * width);
    mask.values.set(row, y * mask.width + rect.left);
  }
  mask.touch(rect);
  return rect;
}

/**
 * The greys of a region, grown. `region` is no longer what it was.
 * @param {Region} region @param {number} px
 */
export function grown(region, px) {
  const flip = px < 0 ? 255 : 0; // to shrink the mask is to grow what is around it
  for (let i = 0; i < region.values.length; i++) region.values[i] ^= flip;
  const result = growRegion(region, radiusOf(px, region));
  for (let i = 0; i < result.length; i++) result[i] = Math.max(result[i], region.values[i]) ^ flip;
  return result;
}

/** @param {number} px @param {{width: number, height: number}} most */
const radiusOf = (px, { width, height }) => Math.min(Math.abs(Math.round(px)), Math.max(width, height));

/** @param {Mask} mask @param {Rect} [rows] whole rows of it @returns {?Rect} what has changed */
export function invert(mask, rows = whole(mask.width, mask.height)) {
  const { values, width } = mask;
  const end = rows.bottom * width;
  let i = rows.top * width;
  for (; i < end && i % 4 !== 0; i++) values[i] ^= 255;
  const words = new Int32Array(values.buffer, i, (end - i) >> 2); // four pixels at a time
  for (let k = 0; k < words.length; k++) words[k] = ~words[k];
  for (i += 4 * words.length; i < end; i++) values[i] ^= 255;
  mask.touch(rows);
  return rows;
}

/** @param {Mask} mask @param {Rect} rect @returns {Region} */
export function cutOut(mask, { left, top, right, bottom }) {
  const [width, height] = [right - left, bottom - top];
  const values = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = (top + y) * mask.width + left;
    values.set(mask.values.subarray(from, from + width), y * width);
  }
  return { values, width, height };
}

/** @param {Region} region @param {number} radius */
function growRegion(region, radius) {
  const grown = new Uint8Array(region.values.length);
  const gaps = new Uint16Array(region.values.length);
  // How far to the side a disc reaches that many rows above or below its centre; −1 = not at all.
  const reach = Int32Array.from({ length: radius + 2 }, (_, gap) =>
    gap > radius ? -1 : Math.floor(Math.sqrt(radius * radius - gap * gap)),
  );
  for (const level of levelsOf(region.values)) { // upwards, so that a brighter level overwrites a darker one
    verticalGaps(region, level, radius + 1, gaps);
    spread(region, gaps, reach, level, grown);
  }
  return grown;
}

/** The greys to grow one by one, rising. A binary mask has one. @param {Uint8Array} values */
function levelsOf(values) {
  const count = new Float64Array(257);
  for (let i = 0; i < values.length; i++) count[values[i]]++;
  const painted = values.length - count[0];
  const plateaus = Array.from({ length: 255 }, (_, i) => i + 1)
    .filter((v) => count[v] >= painted * PLATEAU && count[v] > 0)
    .sort((a, b) => count[b] - count[a])
    .slice(0, MOST_PLATEAUS);
  const levels = [...new Set([...ALWAYS, ...plateaus])].sort((a, b) => a - b);
  /** @param {number} from @param {number} to */
  const between = (from, to) => count.subarray(from, to).some((n) => n > 0);
  return levels.filter((level, i) => between(level, levels[i + 1] ?? 256));
}

/**
 * For every pixel, how many rows away the nearest one of `level` or more in its column is, at most `cap`.
 * @param {Region} region @param {number} level @param {number} cap @param {Uint16Array} gaps is filled
 */
function verticalGaps({ values, width, height }, level, cap, gaps) {
  for (let i = 0; i < width; i++) gaps[i] = values[i] >= level ? 0 : cap;
  for (let i = width; i < values.length; i++) {
    gaps[i] = values[i] >= level ? 0 : Math.min(gaps[i - width] + 1, cap);
  }
  for (let i = width * (height - 1) - 1; i >= 0; i--) {
    if (gaps[i] > gaps[i + width] + 1) gaps[i] = gaps[i + width] + 1;
  }
}

/**
 * Set what lies within the disc of any pixel of the level. In one row a pixel `gap` rows away covers an interval;
 * a sweep to the right finds what the right halves of all intervals cover, one to the left the rest.
 * @param {Region} region @param {Uint16Array} gaps @param {Int32Array} reach @param {number} level
 * @param {Uint8Array} grown is set to `level` there
 */
function spread({ width, height }, gaps, reach, level, grown) {
  for (let y = 0; y < height; y++) {
    const row = y * width;
    for (let x = 0, end = -1; x < width; x++) {
      const side = reach[gaps[row + x]];
      if (side >= 0 && x + side > end) end = x + side;
      if (x <= end) grown[row + x] = level;
    }
    for (let x = width - 1, end = width; x >= 0; x--) {
      const side = reach[gaps[row + x]];
      if (side >= 0 && x - side < end) end = x - side;
      if (x >= end) grown[row + x] = level;
    }
  }
}
