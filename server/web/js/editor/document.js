import { t } from "../i18n.js";
import { Stroke } from "./brush.js";
import { changed, computed, needsTime } from "./computing.js";
import { DEFAULTS, cutBox, extendedBounds, thresholdOf } from "./box.js";
import { NOT_EXTENDED, fitExtension, isExtended, sameExtension } from "./extension.js";
import { History } from "./history.js";
import { Mask } from "./mask.js";
import { apply, isOp, replaceAll } from "./ops.js";
import { readMask } from "./picture.js";
import { fromDataUrl } from "./png.js";
import { inSlices, isLong } from "./slices.js";
import { Snapshot } from "./snapshot.js";

/** @typedef {import("./ops.js").Op} Op @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./picture.js").Picture} Picture */

/** The picture, its mask, its extension and their history. It knows nothing of the screen. */
export class Document {
  /** @param {Picture} picture */
  constructor(picture) {
    this.mask = new Mask(picture.width, picture.height);
    this.settings = { ...DEFAULTS };
    /** An extension that is being dragged, not yet a step. @type {?Rect} */
    this.draft = null;
    this.history = new History(pictureEntry(picture));
  }

  /** @returns {Picture} */
  get picture() {
    return this.history.current.picture;
  }

  /** @returns {Rect} */
  get extend() {
    return this.draft ?? this.history.current.extend;
  }

  /** The box of everything repainted, with an unfinished stroke. @returns {?Rect} in pixels of the wider picture */
  get #repainted() {
    const { width, height } = this.mask;
    return extendedBounds(this.mask.bounds(thresholdOf(this.settings)), width, height, this.extend);
  }

  get isEmpty() {
    return !isExtended(this.extend) && this.mask.bounds(thresholdOf(this.settings)) === null;
  }

  /** The cut box in pixels of the picture: negative where it reaches into what is added. @returns {?Rect} */
  get box() {
    const bounds = this.#repainted;
    if (!bounds) return null;
    const { left, top, right, bottom } = this.extend;
    const box = cutBox(bounds, this.mask.width + left + right, this.mask.height + top + bottom, this.settings);
    return { left: box.left - left, top: box.top - top, right: box.right - left, bottom: box.bottom - top };
  }

  /** Do a step. @param {Op} op @returns {?Rect} what has changed of the mask */
  run(op) {
    return this.commit(op, apply(this.mask, op, this.picture));
  }

  /** Record a step that is already done. @param {Op} op @param {?Rect} rect what it changed @returns {?Rect} */
  commit(op, rect) {
    const { picture, extend, snapshot } = this.history.current;
    this.history.push({ op, picture, extend, snapshot: Snapshot.take(this.mask, snapshot, rect) }, rect);
    return rect;
  }

  /**
   * Make a computed change and record it as a step; a long one in slices, unless it is no longer wanted meanwhile.
   * @param {Op} op @param {import("./computing.js").Change} change @param {() => boolean} isWanted
   * @returns {Promise<?Rect>} what has changed
   */
  async make(op, change, isWanted) {
    const { rect, act } = change;
    if (!rect || !isLong(rect)) {
      const found = changed(this.mask, change);
      return found && this.commit(op, found);
    }
    const made = await inSlices(this.mask, this.history.current.snapshot, rect, act, isWanted);
    if (!made) return null;
    this.mask.become(made.mask);
    const { picture, extend } = this.history.current; // which may have been extended meanwhile
    this.history.push({ op, picture, extend, snapshot: made.snapshot }, rect);
    return rect;
  }

  /** @param {import("./gestures.js").StrokeBrush} brush */
  stroke(brush) {
    return new Stroke(this.mask, brush);
  }

  /** Replace the picture, as a step. @param {Picture} picture */
  replace(picture) {
    this.draft = null;
    this.history.push(pictureEntry(picture), null);
    this.mask = new Mask(picture.width, picture.height);
  }

  /** The wanted extension within the limits. @param {Partial<Rect>} wanted */
  fitted(wanted) {
    return fitExtension({ ...this.extend, ...wanted }, this.mask.width, this.mask.height);
  }

  /** @param {Partial<Rect>} wanted @returns {boolean} whether that was a step */
  extendTo(wanted) {
    const extend = this.fitted(wanted);
    this.draft = null;
    const { picture, snapshot, extend: before } = this.history.current;
    if (sameExtension(extend, before)) return false;
    this.history.push({ op: { kind: "extend", ...extend }, picture, extend, snapshot }, null);
    return true;
  }

  /** Load a mask from a picture, as a step. @param {Uint8Array} values @param {string} png the same, for drafts */
  load(values, png) {
    return this.commit({ kind: "bitmap", png }, replaceAll(this.mask, values));
  }

  /** Undo (−1) or do again (1); see `history.canUndo`, `canRedo`. @param {number} by */
  go(by) {
    this.draft = null;
    this.mask = this.history.go(by, this.mask, (picture) => new Mask(picture.width, picture.height));
  }

  toJSON() {
    return { version: 1, steps: this.history.steps };
  }

  /**
   * Repeat a draft's steps on a picture just opened.
   * @param {any} json what `toJSON` gave @param {import("./background.js").Background} background
   * @throws {Error} with a sentence, if it is something else
   */
  async repeat(json, background) {
    if (json?.version !== 1 || !Array.isArray(json.steps) || !json.steps.every(isOp)) {
      throw new Error(t("The draft cannot be read: it was written by another version of this page."));
    }
    for (const op of json.steps) {
      if (op.kind === "extend") this.extendTo(op);
      else if (op.kind === "bitmap") this.load(await this.#decoded(op.png), op.png);
      else if (needsTime(this, op)) this.commit(op, changed(this.mask, await computed(this, op, background)));
      else this.run(op);
    }
  }

  /**
   * Make a document with a history.
   * @param {{at: number, chapters: {picture: Picture, steps: Op[]}[]}} past see `History`
   * @param {import("./background.js").Background} background @throws {Error} with a sentence
   */
  static async revive({ at, chapters: [first, ...others] }, background) {
    const doc = new Document(first.picture);
    await doc.repeat({ version: 1, steps: first.steps }, background);
    for (const { picture, steps } of others) {
      doc.replace(picture);
      await doc.repeat({ version: 1, steps }, background);
    }
    while (doc.history.at > at) doc.go(-1);
    return doc;
  }

  /** @param {string} png a `data:` URL */
  #decoded(png) {
    return readMask(fromDataUrl(png), this.mask.width, this.mask.height);
  }
}

/** @param {Picture} picture @returns {import("./history.js").Entry} */
function pictureEntry(picture) {
  const snapshot = Snapshot.empty(picture.width, picture.height);
  return { op: { kind: "picture" }, picture, extend: NOT_EXTENDED, snapshot };
}
