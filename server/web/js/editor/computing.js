import { cutOut, putBack, reach } from "./morphology.js";
import { apply } from "./ops.js";
import { fromDataUrl } from "./png.js";
import { paintSelection } from "./selection.js";

/** @typedef {import("./document.js").Document} Document @typedef {import("./ops.js").Op} Op */
/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./background.js").Background} Background */

const QUICK_PX = 400_000; // a region that is grown within a frame

/** True for a step that the page cannot do within a frame. @param {Document} doc @param {Op} op */
export function needsTime({ mask }, op) {
  if (op.kind === "wand" || op.kind === "patch") return true;
  const rect = op.kind === "grow" ? reach(mask, op.px) : null;
  return rect !== null && (rect.right - rect.left) * (rect.bottom - rect.top) > QUICK_PX;
}

/**
 * Compute a step. The mask must not change before the answer is called.
 * @param {Document} doc @param {Op} op @param {Background} background
 * @returns {Promise<() => ?Rect>} what does it, and says what has changed
 */
export async function computed(doc, op, background) {
  const { mask, picture } = doc;
  if (!needsTime(doc, op)) return () => apply(mask, op, picture);
  if (op.kind === "wand") {
    const found = await background.wand(picture.blob, op);
    return () => paintSelection(mask, found, op.value);
  }
  if (op.kind === "patch") {
    const values = await background.grey(fromDataUrl(op.png));
    return () => paintSelection(mask, { rect: op.rect, values }, op.value);
  }
  const px = /** @type {Extract<Op, {kind: "grow"}>} */ (op).px;
  const rect = /** @type {Rect} */ (reach(mask, px));
  const values = await background.grow(cutOut(mask, rect), px);
  return () => putBack(mask, rect, values);
}
