/** @typedef {{x: number, y: number}} Point */
/**
 * What a polygon does; points are pixels of the picture.
 * @typedef {object} PolygonActions
 * @property {() => number} zoom CSS pixels a pixel of the picture
 * @property {(path: ?Point[]) => void} show
 * @property {(corners: Point[], takesAway: boolean) => void} done
 */

const NEAR = 8; // CSS pixels: a click this close to the first corner closes it

/** A polygon that is drawn corner by corner: Enter, a double click or its first corner closes it. */
export class Polygon {
  /** @type {Point[]} */
  #corners = [];
  #takesAway = false;

  /** @param {HTMLElement} host @param {PolygonActions} actions */
  constructor(host, actions) {
    this.actions = actions;
    host.addEventListener("keydown", (event) => this.#key(event));
    host.addEventListener("dblclick", () => this.finish(true));
  }

  get isOpen() {
    return this.#corners.length > 0;
  }

  /** Set a corner. @param {Point} point @param {boolean} takesAway counts with the first corner */
  add(point, takesAway) {
    if (this.#corners.length > 2 && this.#isNear(this.#corners[0], point)) return this.finish(true);
    const last = this.#corners.at(-1);
    if (!last) this.#takesAway = takesAway;
    if (!last || last.x !== point.x || last.y !== point.y) this.#corners.push(point); // not the second of two clicks
    this.actions.show(this.#corners);
  }

  /** Draw a line to where the pointer is. @param {Point} point */
  hover(point) {
    if (this.isOpen) this.actions.show([...this.#corners, point]);
  }

  /** @param {boolean} keep it, or take it back; with less than three corners there is nothing to keep */
  finish(keep) {
    if (!this.isOpen) return;
    const corners = this.#corners;
    this.#corners = [];
    this.actions.show(null);
    if (keep && corners.length > 2) this.actions.done(corners, this.#takesAway);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.isOpen) return;
    if (event.key === "Enter") this.finish(true);
    else if (event.key === "Escape") this.finish(false);
    else if (event.key === "Backspace" || event.key === "Delete") this.#removeLast();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Enter would show the crosshair
  }

  #removeLast() {
    this.#corners.pop();
    this.actions.show(this.isOpen ? this.#corners : null);
  }

  /** @param {Point} a @param {Point} b */
  #isNear(a, b) {
    return Math.hypot(a.x - b.x, a.y - b.y) * this.actions.zoom() <= NEAR;
  }
}
