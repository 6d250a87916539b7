import { BrushGesture, RectangleGesture } from "./gestures.js";
import { clip, isNothing } from "./rect.js";

/** @typedef {import("./gestures.js").Gesture} Gesture @typedef {import("./gestures.js").Point} Point */
/** @typedef {import("./gestures.js").Listener} Listener @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./ops.js").StrokeOp} StrokeOp */
/**
 * Where an object is: a point in it, a box around it, or a rough stroke over it.
 * @typedef {{point: Point} | {box: Rect} | {stroke: StrokeOp}} Where
 * @typedef {{tool: "snap"|"click", takesAway: boolean} & Partial<{point: Point, box: Rect, stroke: StrokeOp}>} Hint
 */

const STILL = 4; // CSS pixels: less is a click, not a box

/**
 * A stroke that is seen like any other while it is drawn, and is then what an object is looked for under.
 * @implements {Gesture}
 */
export class RoughStroke {
  #stroke;

  /**
   * @param {import("./document.js").Document} doc @param {number} size pixels @param {Point} start
   * @param {Listener} listener @param {(where: Where) => void} done
   */
  constructor(doc, size, start, listener, done) {
    this.#stroke = new BrushGesture(doc, { size, hardness: 1, value: 255 }, start, listener);
    this.done = done;
  }

  /** @param {Point} point */
  move(point) {
    this.#stroke.move(point);
  }

  end() {
    const op = this.#stroke.op;
    const reached = this.#stroke.stroke.rect !== null;
    this.#stroke.cancel();
    if (reached) this.done({ stroke: op });
  }

  cancel() {
    this.#stroke.cancel();
  }
}

/**
 * A click in an object, or a box around it.
 * @implements {Gesture}
 */
export class PointOrBox {
  #rectangle;
  #moved = false;

  /**
   * @param {{width: number, height: number}} picture @param {Point} start
   * @param {?number} zoom CSS pixels a pixel of the picture; null if a click is nothing @param {Listener} listener
   * @param {(where: Where) => void} done
   */
  constructor(picture, start, zoom, listener, done) {
    this.picture = picture;
    this.start = start;
    this.zoom = zoom;
    this.listener = listener;
    this.done = done;
    this.#moved = zoom === null;
    this.#rectangle = new RectangleGesture(null, 0, start, listener);
  }

  get path() {
    return this.#moved ? this.#rectangle.path : undefined;
  }

  /** @param {Point} point */
  move(point) {
    const far = Math.hypot(point.x - this.start.x, point.y - this.start.y) * (this.zoom ?? Infinity);
    if (far >= STILL) this.#moved = true;
    this.#rectangle.move(point);
  }

  end() {
    this.listener.changed(null);
    const { width, height } = this.picture;
    if (this.#moved) {
      const box = clip(this.#rectangle.rect, width, height);
      if (!isNothing(box)) this.done({ box });
      return;
    }
    const { x, y } = this.start;
    if (this.zoom !== null && x >= 0 && y >= 0 && x < width && y < height) this.done({ point: { x, y } });
  }

  cancel() {
    this.listener.changed(null);
  }
}
