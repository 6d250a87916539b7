import { cutOut, invert, putBack, reach } from "./morphology.js";
import { apply } from "./ops.js";
import { fromDataUrl } from "./png.js";
import { whole } from "./rect.js";
import { fillRect } from "./shapes.js";
import { isLong } from "./slices.js";
import { paintSelection } from "./selection.js";

/** @typedef {import("./document.js").Document} Document @typedef {import("./ops.js").Op} Op */
/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./background.js").Background} Background */
/** @typedef {import("./mask.js").Mask} Mask */
/**
 * What a step changes, and what changes rows of that; `rect` null = it is done in one piece.
 * @typedef {{rect: ?Rect, act: (mask: Mask, part: Rect) => ?Rect}} Change
 */

const QUICK_PX = 400_000; // a region that is grown within a frame

/** True for a step that the page cannot do within a frame. @param {Document} doc @param {Op} op */
export function needsTime({ mask }, op) {
  if (op.kind === "wand" || op.kind === "patch") return true;
  if (op.kind === "invert" || op.kind === "fill") return isLong(whole(mask.width, mask.height));
  const rect = op.kind === "grow" ? reach(mask, op.px) : null;
  return rect !== null && (rect.right - rect.left) * (rect.bottom - rect.top) > QUICK_PX;
}

/**
 * Compute a step. The mask must not change before its change is made.
 * @param {Document} doc @param {Op} op @param {Background} background
 * @returns {Promise<?Change>} null = nothing changes
 */
export async function computed(doc, op, background) {
  const { mask, picture } = doc;
  const all = whole(mask.width, mask.height);
  if (!needsTime(doc, op)) return { rect: null, act: () => apply(mask, op, picture) };
  switch (op.kind) {
    case "wand":
      return painting(await background.wand(picture.blob, op), op.value);
    case "patch":
      return painting({ rect: op.rect, values: await background.grey(fromDataUrl(op.png)) }, op.value);
    case "invert":
      return { rect: all, act: invert };
    case "fill":
      return { rect: all, act: (of, part) => fillRect(of, part, op.value) };
    default:
      return growing(mask, /** @type {Extract<Op, {kind: "grow"}>} */ (op).px, background);
  }
}

/**
 * Do the change in one piece.
 * @param {Mask} mask @param {?Change} change @returns {?Rect} what has changed
 */
export const changed = (mask, change) => change && change.act(mask, change.rect ?? whole(mask.width, mask.height));

/** @param {?import("./wand.js").Selection} selection @param {number} value @returns {?Change} */
function painting(selection, value) {
  if (!selection) return null;
  const { rect, values } = selection;
  return {
    rect,
    act: (mask, part) => paintSelection(mask, { rect: part, values: rowsOf(values, rect, part) }, value),
  };
}

/** @param {Mask} mask @param {number} px @param {Background} background @returns {Promise<Change>} */
async function growing(mask, px, background) {
  const rect = /** @type {Rect} */ (reach(mask, px));
  const values = await background.grow(cutOut(mask, rect), px);
  return { rect, act: (of, part) => putBack(of, part, rowsOf(values, rect, part)) };
}

/**
 * The greys of some of a rectangle's rows.
 * @template {Uint8Array} T @param {T} values @param {Rect} rect @param {Rect} part as wide as that
 */
const rowsOf = (values, { left, top, right }, part) =>
  /** @type {T} */ (values.subarray((part.top - top) * (right - left), (part.bottom - top) * (right - left)));
