/** @typedef {import("./document.js").Document} Document @typedef {import("./rect.js").Rect} Rect */
/** @typedef {{x: number, y: number, pressure?: number}} Point pressure 0..1 of a pen; 1 of everything else */
/**
 * @typedef {{size: number, hardness: number, value: number, pressure?: import("./brush.js").PressedInto}} StrokeBrush
 */
/**
 * A stroke or shape while it is drawn, by pointer or by keyboard, in pixels of the picture; `path` is its outline.
 * @typedef {{move: (p: Point) => void, end: () => void, cancel: () => void, path?: Point[]}} Gesture
 * @typedef {{changed: (rect: ?Rect) => void, done: () => void}} Listener of every change, and of a finished step
 */

// An eighth of a pixel is finer than anyone draws, and keeps drafts short.
/** @param {number} v */
export const rounded = (v) => Math.round(v * 8) / 8;
// A brush of one pixel between two of them would paint both at less than half, which repaints neither.
/** @param {number} v */
const inPixel = (v) => Math.floor(v) + 0.5;
const ONE_PIXEL = 2; // brushes smaller than this
/** @param {number} v */
const roundedShare = (v) => Math.round(Math.min(Math.max(v, 0), 1) * 64) / 64;

/** @implements {Gesture} */
export class BrushGesture {
  /** @type {number[]} */
  #points = [];
  /** One a point, where a pen's pressure counts. @type {number[]} */
  #pressures = [];

  /**
   * @param {Document} doc @param {StrokeBrush} brush
   * @param {Point} start @param {Listener} listener
   */
  constructor(doc, brush, start, listener) {
    this.doc = doc;
    this.brush = brush;
    this.listener = listener;
    this.stroke = doc.stroke(brush);
    this.move(start);
  }

  /** @param {Point} point */
  move(point) {
    const fit = this.brush.size < ONE_PIXEL ? inPixel : rounded;
    const [x, y] = [fit(point.x), fit(point.y)];
    const pressure = this.brush.pressure ? roundedShare(point.pressure ?? 1) : 1;
    const n = this.#points.length;
    const stays = this.#points[n - 2] === x && this.#points[n - 1] === y;
    if (stays && pressure <= (this.#pressures.at(-1) ?? 1)) return;
    this.#points.push(x, y);
    this.#pressures.push(pressure);
    this.listener.changed(this.stroke.add(x, y, pressure));
  }

  end() {
    const rect = this.stroke.end();
    if (rect === null) return; // it never touched the picture
    this.doc.commit(this.op, rect);
    this.listener.done();
  }

  /** What is drawn, as a step. @returns {import("./ops.js").StrokeOp} */
  get op() {
    const pressed = this.brush.pressure ? { pressures: this.#pressures } : {};
    return { kind: "stroke", ...this.brush, points: this.#points, ...pressed };
  }

  cancel() {
    this.listener.changed(this.stroke.revert());
  }
}

/** @implements {Gesture} */
export class LassoGesture {
  /** @param {Document} doc @param {number} value @param {Point} start @param {Listener} listener */
  constructor(doc, value, start, listener) {
    this.doc = doc;
    this.value = value;
    this.listener = listener;
    this.path = [start];
  }

  /** @param {Point} point */
  move(point) {
    this.path.push(point);
    this.listener.changed(null);
  }

  end() {
    const points = this.path.flatMap(({ x, y }) => [rounded(x), rounded(y)]);
    const rect = this.path.length < 3 ? null : this.doc.run({ kind: "polygon", value: this.value, points });
    this.listener.changed(rect);
    if (rect) this.listener.done();
  }

  cancel() {
    this.listener.changed(null);
  }
}

/** @implements {Gesture} */
export class RectangleGesture {
  /** @param {?Document} doc null if it is only shown @param {number} value @param {Point} start @param {Listener} listener */
  constructor(doc, value, start, listener) {
    this.doc = doc;
    this.value = value;
    this.listener = listener;
    this.start = this.corner = start;
  }

  /** @param {Point} point */
  move(point) {
    this.corner = point;
    this.listener.changed(null);
  }

  get path() {
    const { left, top, right, bottom } = this.rect;
    return [left, right].flatMap((x, i) => (i ? [{ x, y: bottom }, { x, y: top }] : [{ x, y: top }, { x, y: bottom }]));
  }

  /** @returns {Rect} */
  get rect() {
    const [a, b] = [this.start, this.corner];
    return {
      left: Math.round(Math.min(a.x, b.x)),
      top: Math.round(Math.min(a.y, b.y)),
      right: Math.round(Math.max(a.x, b.x)),
      bottom: Math.round(Math.max(a.y, b.y)),
    };
  }

  end() {
    const rect = this.rect;
    const empty = rect.right <= rect.left || rect.bottom <= rect.top;
    const changed = empty || !this.doc ? null : this.doc.run({ kind: "rectangle", value: this.value, rect });
    this.listener.changed(changed);
    if (changed) this.listener.done();
  }

  cancel() {
    this.listener.changed(null);
  }
}
