/** @typedef {import("./rect.js").Rect} Rect @typedef {{x: number, y: number}} Point */

const MOST_ZOOM = 40; // CSS pixels a pixel of the picture
const LEAST_SHOWN = 48; // CSS pixels of the picture that panning leaves in view

/** The place of the picture in the window: `zoom` CSS pixels a pixel, its corner at (x, y) of the host. */
export class View {
  zoom = 1;
  x = 0;
  y = 0;
  width = 1;
  height = 1;
  /** True while the picture is fitted, and stays so when the host changes its size. */
  fitted = true;

  /** @param {Point} local @returns {Point} */
  toPicture(local) {
    return { x: (local.x - this.x) / this.zoom, y: (local.y - this.y) / this.zoom };
  }

  /** @param {Point} point @returns {Point} */
  toLocal(point) {
    return { x: point.x * this.zoom + this.x, y: point.y * this.zoom + this.y };
  }

  /** Show all of `frame`, never enlarged beyond 8:1. @param {Rect} frame @param {number} margin CSS pixels */
  fit(frame, margin) {
    const [w, h] = [frame.right - frame.left, frame.bottom - frame.top];
    /** @param {number} side */
    const room = (side) => Math.max(side - 2 * margin, side / 2);
    this.zoom = Math.min(room(this.width) / w, room(this.height) / h, 8);
    this.x = (this.width - w * this.zoom) / 2 - frame.left * this.zoom;
    this.y = (this.height - h * this.zoom) / 2 - frame.top * this.zoom;
    this.fitted = true;
  }

  /** @param {number} factor @param {Point} local what stays where it is @param {Rect} frame */
  zoomAt(factor, local, frame) {
    const side = Math.max(frame.right - frame.left, frame.bottom - frame.top);
    const least = Math.min(64 / side, 1);
    const zoom = Math.min(Math.max(this.zoom * factor, least), MOST_ZOOM);
    const fixed = this.toPicture(local);
    this.zoom = zoom;
    this.panBy(local.x - fixed.x * zoom - this.x, local.y - fixed.y * zoom - this.y, frame);
  }

  /** @param {number} dx CSS pixels @param {number} dy @param {Rect} frame of which a corner stays in view */
  panBy(dx, dy, frame) {
    /** @param {number} at @param {number} from @param {number} to @param {number} side */
    const keep = (at, from, to, side) => {
      const shown = Math.min(LEAST_SHOWN, (to - from) * this.zoom, side);
      return Math.min(Math.max(at, shown - to * this.zoom), side - shown - from * this.zoom);
    };
    this.x = keep(this.x + dx, frame.left, frame.right, this.width);
    this.y = keep(this.y + dy, frame.top, frame.bottom, this.height);
    this.fitted = false;
  }

  /**
   * Follow the host to another size: what was in the middle stays there.
   * @param {number} width @param {number} height
   */
  resize(width, height) {
    this.x += (width - this.width) / 2;
    this.y += (height - this.height) / 2;
    this.width = width;
    this.height = height;
  }
}
