import { apply } from "./ops.js";
import { union } from "./rect.js";
import { Snapshot, bytesHeld } from "./snapshot.js";

/** @typedef {import("./ops.js").Op} Op @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./picture.js").Picture} Picture */
/**
 * The state after one step: `picture` and `extend` as they are, the mask as a snapshot or, where that was dropped,
 * as what `op` makes of the entry before. Where that cannot be repeated in a moment, it is never dropped.
 * @typedef {{op: Op, picture: Picture, extend: Rect, snapshot: ?Snapshot}} Entry
 */

const BUDGET_BYTES = 96 * 2 ** 20;
/** @type {Op["kind"][]} */
const KEPT = ["picture", "bitmap", "wand", "patch", "grow"];
const CHECKPOINT_EVERY = 8; // of the older steps one in eight stays a bitmap: undo repeats at most seven

/** A history of steps. It holds no mask, but can make one as it was. */
export class History {
  #at = 0;
  #held = 0; // bytes, an upper bound between two counts

  /** @param {Entry} first */
  constructor(first, budgetBytes = BUDGET_BYTES) {
    /** @type {Entry[]} */
    this.entries = [first];
    this.budgetBytes = budgetBytes;
  }

  /** The entry that is shown; its snapshot is never dropped. @returns {Entry & {snapshot: Snapshot}} */
  get current() {
    return /** @type {Entry & {snapshot: Snapshot}} */ (this.entries[this.#at]);
  }

  /** How many steps have been done after the first entry. */
  get at() {
    return this.#at;
  }

  /** The pictures, oldest first, each with the steps on it. @returns {{picture: Picture, steps: Op[]}[]} */
  get chapters() {
    /** @type {{picture: Picture, steps: Op[]}[]} */
    const chapters = [];
    for (const { op, picture } of this.entries) {
      if (op.kind === "picture") chapters.push({ picture, steps: [] });
      else chapters[chapters.length - 1].steps.push(op);
    }
    return chapters;
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at + 1 < this.entries.length;
  }

  /** Add a step after the current one; what was undone is forgotten. @param {Entry} entry @param {?Rect} rect */
  push(entry, rect) {
    this.entries.length = this.#at + 1;
    this.entries.push(entry);
    this.#at += 1;
    this.#held += rect ? (rect.right - rect.left + 512) * (rect.bottom - rect.top + 512) : 0;
    if (this.#held > this.budgetBytes) this.#drop();
  }

  /**
   * Put a picture in the place of others, in all steps at which they are shown; no step is added.
   * @param {(picture: Picture) => boolean} isOld @param {Picture} picture of the same size
   */
  swap(isOld, picture) {
    for (const entry of this.entries) if (isOld(entry.picture)) entry.picture = picture;
  }

  /** The steps since the picture that is shown was opened. @returns {Op[]} */
  get steps() {
    const since = this.entries.slice(0, this.#at + 1);
    return since.slice(since.findLastIndex((entry) => entry.op.kind === "picture") + 1).map((entry) => entry.op);
  }

  /**
   * Go `by` steps (−1 or 1). `mask` belongs to the current picture; if the step changes the picture, `maskFor` makes
   * another one.
   * @param {number} by @param {Mask} mask @param {(picture: Picture) => Mask} maskFor
   * @returns {Mask} the mask, as it was then
   */
  go(by, mask, maskFor) {
    const from = this.current;
    this.#at += by;
    const to = this.entries[this.#at];
    const other = to.picture !== from.picture;
    const now = other ? maskFor(to.picture) : mask;
    const before = other ? Snapshot.empty(now.width, now.height) : from.snapshot;
    const changed = this.#restore(now, before);
    to.snapshot ??= Snapshot.take(now, before, changed);
    return now;
  }

  /** @param {Mask} mask @param {Snapshot} before what it holds @returns {?Rect} what has changed */
  #restore(mask, before) {
    let k = this.#at;
    let { snapshot } = this.entries[k];
    while (snapshot === null) snapshot = this.entries[--k].snapshot;
    let changed = snapshot.restore(mask, before);
    for (k += 1; k <= this.#at; k++) changed = union(changed, apply(mask, this.entries[k].op, this.entries[k].picture));
    return changed;
  }

  /** Drop bitmaps until the rest fits: first those between checkpoints, the oldest first. */
  #drop() {
    const indices = [...this.entries.keys()].slice(0, -1).filter((k) => this.#mayDrop(k));
    /** @param {number} k */
    const isCheckpoint = (k) => k % CHECKPOINT_EVERY === 0;
    const order = [...indices.filter((k) => !isCheckpoint(k)), ...indices.filter(isCheckpoint)];
    for (;;) {
      this.#held = bytesHeld(this.entries.map((entry) => entry.snapshot).filter((one) => one !== null));
      if (this.#held <= 0.75 * this.budgetBytes || order.length === 0) return;
      for (const k of order.splice(0, Math.ceil(order.length / 8))) this.entries[k].snapshot = null;
    }
  }

  /** @param {number} k */
  #mayDrop(k) {
    const { op, snapshot } = this.entries[k];
    return snapshot !== null && !KEPT.includes(op.kind);
  }
}
