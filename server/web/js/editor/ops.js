import { Stroke } from "./brush.js";
import { grow, invert } from "./morphology.js";
import { whole } from "./rect.js";
import { fillPolygon, fillRect } from "./shapes.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */
/**
 * One step of the history, as plain data: it goes into drafts as it is. `value` is the grey that is painted, 0..255.
 * @typedef {{kind: "stroke", size: number, hardness: number, value: number, points: number[],
 *     pressure?: import("./brush.js").PressedInto, pressures?: number[]}
 *   | {kind: "polygon", value: number, points: number[]}
 *   | {kind: "rectangle", value: number, rect: Rect}
 *   | {kind: "fill", value: number} | {kind: "invert"} | {kind: "grow", px: number} | {kind: "alpha"}
 *   | {kind: "wand", value: number} & import("./wand.js").WandClick
 *   | {kind: "patch", rect: Rect, png: string, value: number}
 *   | {kind: "bitmap", png: string} | {kind: "extend"} & Rect | {kind: "picture"}} Op
 */

/** @typedef {Extract<Op, {kind: "stroke"}>} StrokeOp */

/**
 * Repeat a step on the mask. A `bitmap`, `wand` or `patch` cannot be repeated, since they are read and computed in
 * their own time: the history keeps what they left behind.
 * @param {Mask} mask @param {Op} op @param {import("./picture.js").Picture} picture
 * @returns {?Rect} what has changed
 */
export function apply(mask, op, picture) {
  switch (op.kind) {
    case "stroke":
      return strokeAll(mask, op);
    case "polygon":
      return fillPolygon(mask, op.points, op.value);
    case "rectangle":
      return fillRect(mask, op.rect, op.value);
    case "fill":
      return fillRect(mask, whole(mask.width, mask.height), op.value);
    case "invert":
      return invert(mask);
    case "grow":
      return grow(mask, op.px);
    case "alpha":
      return picture.clear ? replaceAll(mask, picture.clear) : fillRect(mask, whole(mask.width, mask.height), 0);
    case "extend":
      return null;
    default:
      throw new Error(`The step ${JSON.stringify(op.kind)} cannot be repeated.`);
  }
}

/** @param {Mask} mask @param {Uint8Array} values @returns {Rect} what has changed */
export function replaceAll(mask, values) {
  mask.values.set(values);
  const rect = whole(mask.width, mask.height);
  mask.touch(rect);
  return rect;
}

/** @param {Mask} mask @param {StrokeOp} op */
export function strokeAll(mask, op) {
  const stroke = new Stroke(mask, op);
  for (let i = 0; i + 1 < op.points.length; i += 2) {
    stroke.add(op.points[i], op.points[i + 1], op.pressures?.[i / 2]);
  }
  return stroke.end();
}

/** @param {any} n */
const isSize = (n) => Number.isFinite(n) && n > 0;
/** @param {any} n */
const isShare = (n) => Number.isFinite(n) && n >= 0 && n <= 1;
/** @param {any} n */
const isGrey = (n) => Number.isInteger(n) && n >= 0 && n <= 255;
/** @param {any} points */
const arePoints = (points) => Array.isArray(points) && points.length % 2 === 0 && points.every(Number.isFinite);
/** @param {any} op */
const arePressures = ({ pressure, pressures, points }) =>
  pressure === undefined
    ? pressures === undefined
    : ["size", "opacity"].includes(pressure) &&
      Array.isArray(pressures) &&
      pressures.length === points.length / 2 &&
      pressures.every(isShare);
/** @param {any} r */
const isRect = (r) => !!r && [r.left, r.top, r.right, r.bottom].every(Number.isInteger);

/** @type {Record<string, (op: any) => boolean>} */
const CHECKS = {
  stroke: (op) =>
    isSize(op.size) && isShare(op.hardness) && isGrey(op.value) && arePoints(op.points) && arePressures(op),
  polygon: (op) => isGrey(op.value) && arePoints(op.points),
  rectangle: (op) => isGrey(op.value) && isRect(op.rect),
  fill: (op) => isGrey(op.value),
  invert: () => true,
  alpha: () => true,
  grow: (op) => Number.isFinite(op.px),
  wand: (op) => [op.x, op.y, op.tolerance].every(Number.isInteger) && isGrey(op.value),
  patch: (op) => isRect(op.rect) && typeof op.png === "string" && isGrey(op.value),
  bitmap: (op) => typeof op.png === "string",
  extend: () => true,
};

/** True for a step of a draft, as far as can be checked without a picture. @param {any} op @returns {op is Op} */
export const isOp = (op) => !!op && Object.hasOwn(CHECKS, op.kind) && CHECKS[op.kind](op);
