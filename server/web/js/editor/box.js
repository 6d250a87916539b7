import { union } from "./rect.js";

/** @typedef {import("./rect.js").Rect} Rect */
/** @typedef {[number, number]} Size width, height */
/**
 * The request's fields that the cut box depends on; `native` is the model's, from the server.
 * @typedef {{area: "auto"|"whole", padding: number, grow: number, feather: number, native: number, soft: boolean}}
 *   BoxSettings
 */

// A port of `_measure` and `_box_around` in inpaint/canvas/crop.py, and of inpaint/canvas/sizes.py, held to
// them by tests/page/test_geometry.py.
const STEP = 64;
const AREA_WEIGHT = 0.2;
const USUAL = [
  [1024, 1024],
  [1152, 896],
  [896, 1152],
  [1344, 768],
  [768, 1344],
];
const MAX_SQUEEZE = Math.log(1.1);
const WIDENING_WEIGHT = 0.1;
const CONTEXT = 1.2;
const MAX_BOX_ASPECT = 2;

/** @type {Readonly<BoxSettings>} */
export const DEFAULTS = Object.freeze({
  area: "auto",
  padding: 32,
  grow: 8,
  feather: 16,
  native: 1024,
  soft: false,
});

/** The mask's level from which a pixel is repainted. @param {BoxSettings} settings */
export const thresholdOf = (settings) => (settings.soft ? 8 : 128);

/**
 * What is repainted once the picture is extended, in pixels of the wider picture, whose corner is (0, 0).
 * @param {?Rect} bounds of the mask, in the picture; null if nothing is painted
 * @param {number} width of the picture @param {number} height
 * @param {Rect} extend four widths
 * @returns {?Rect}
 */
export function extendedBounds(bounds, width, height, extend) {
  const { left, top, right, bottom } = extend;
  const [w, h] = [width + left + right, height + top + bottom];
  const inside = bounds && {
    left: bounds.left + left,
    top: bounds.top + top,
    right: bounds.right + left,
    bottom: bounds.bottom + top,
  };
  const strips = [
    { left: 0, top: 0, right: left, bottom: h },
    { left: 0, top: 0, right: w, bottom: top },
    { left: w - right, top: 0, right: w, bottom: h },
    { left: 0, top: h - bottom, right: w, bottom: h },
  ];
  return strips.reduce(union, inside);
}

/**
 * The part of the picture that the server will paint.
 * @param {Rect} bounds of what is repainted
 * @param {number} width of the picture @param {number} height
 * @param {BoxSettings} settings
 * @returns {Rect}
 */
export function cutBox(bounds, width, height, settings) {
  const all = { left: 0, top: 0, right: width, bottom: height };
  if (settings.area === "whole") return all;
  const first = boxAround(bounds, 0, width, height, settings.native);
  const unit = Math.sqrt((first.right - first.left) * (first.bottom - first.top)) / 1024;
  /** @param {number} units */
  const px = (units) => Math.ceil(units * unit - 1e-9);
  const margin = px(settings.grow) + Math.max(px(settings.padding), px(settings.feather));
  return boxAround(bounds, margin, width, height, settings.native);
}

/**
 * @param {Rect} bounds @param {number} margin @param {number} fullWidth @param {number} fullHeight
 * @param {number} native @returns {Rect}
 */
function boxAround(bounds, margin, fullWidth, fullHeight, native) {
  /** @param {number} side */
  const least = (side) => Math.max(side + 2 * margin, Math.ceil(CONTEXT * side), Math.floor(native / 2));
  let [w, h] = [least(bounds.right - bounds.left), least(bounds.bottom - bounds.top)];
  [w, h] = [Math.max(w, Math.floor(h / MAX_BOX_ASPECT)), Math.max(h, Math.floor(w / MAX_BOX_ASPECT))];
  [w, h] = [Math.min(w, fullWidth), Math.min(h, fullHeight)];
  [w, h] = widened([w, h], [fullWidth, fullHeight], native);
  const left = Math.min(Math.max(Math.floor((bounds.left + bounds.right - w) / 2), 0), fullWidth - w);
  const top = Math.min(Math.max(Math.floor((bounds.top + bounds.bottom - h) / 2), 0), fullHeight - h);
  return { left, top, right: left + w, bottom: top + h };
}

/**
 * The sizes of `area: "auto"`; none if the model is too small for them to be distinct.
 * @param {number} native @returns {Size[]}
 */
export function usualSizes(native) {
  /** @param {number} side */
  const scaled = (side) => roundHalfEven((side * native) / 1024 / STEP) * STEP;
  const sizes = USUAL.map(([w, h]) => /** @type {Size} */ ([scaled(w), scaled(h)]));
  return new Set(sizes.map(String)).size === sizes.length ? sizes : [];
}

/**
 * A box widened, within the picture, to the shape of the size at which it will be painted.
 * @param {Size} box @param {Size} picture @param {number} native @returns {Size}
 */
export function widened(box, picture, native) {
  const sizes = usualSizes(native);
  /** @param {Size} wide */
  const squeezed = (wide) => Math.min(...sizes.map((size) => squeeze(wide, size)));
  let best = box;
  let least = Infinity;
  for (const size of sizes) {
    const wide = widenedTo(size, box, picture);
    const cost = squeezed(wide) + WIDENING_WEIGHT * Math.log(wide[0] * wide[1]);
    if (cost < least) [best, least] = [wide, cost];
  }
  return squeezed(best) <= MAX_SQUEEZE ? best : widenedTo(bestSize(...box, native), box, picture);
}

/** @param {Size} size @param {Size} box @param {Size} picture @returns {Size} */
function widenedTo(size, [w, h], picture) {
  const wide = Math.max(w, roundHalfEven((h * size[0]) / size[1]));
  const high = Math.max(h, roundHalfEven((w * size[1]) / size[0]));
  return [Math.min(wide, picture[0]), Math.min(high, picture[1])];
}

/** @param {Size} box @param {Size} size */
const squeeze = (box, size) => Math.abs(Math.log((box[0] * size[1]) / (box[1] * size[0])));

/**
 * Multiples of 64 with about native² pixels and about the shape of width × height.
 * @param {number} width @param {number} height @param {number} native @returns {Size}
 */
export function bestSize(width, height, native) {
  const largest = Math.max(4 * native, 16 * STEP);
  /** @type {Size} */
  let best = [STEP, STEP];
  let least = Infinity;
  for (let w = STEP; w <= largest; w += STEP) {
    for (let h = STEP; h <= largest; h += STEP) {
      const shape = Math.abs(Math.log(((w / h) * height) / width));
      const cost = shape + AREA_WEIGHT * Math.abs(Math.log((w * h) / native ** 2));
      if (cost < least) [best, least] = [[w, h], cost];
    }
  }
  return best;
}

/** Round as Python does, half to even. @param {number} value */
function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}
