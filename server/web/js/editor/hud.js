import { context2d } from "./canvas.js";
import { isExtended } from "./extension.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./view.js").View} View */
/** @typedef {import("./document.js").Document} Document @typedef {import("./stage.js").Scene} Scene */
/** @typedef {{x: number, y: number}} Point */

const DASH = [6, 4];
const DOT = [3, 3];
const TINY = 5; // CSS pixels: a smaller brush gets a cross, else it is lost on the picture

/** The lines over the picture, in the window's own pixels: cut box, frame, lasso, crosshair, brush. */
export class Hud {
  #context;
  #ratio = 1;

  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "editor-hud";
    this.#context = context2d(this.canvas);
  }

  /** @param {number} width CSS pixels @param {number} height */
  resize(width, height) {
    this.#ratio = window.devicePixelRatio;
    this.canvas.width = Math.round(width * this.#ratio);
    this.canvas.height = Math.round(height * this.#ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
  }

  /** @param {?Document} doc @param {View} view @param {Scene} scene */
  draw(doc, view, scene) {
    // The window may have moved to a screen with other pixels, or the browser's zoom changed.
    if (this.#ratio !== window.devicePixelRatio) this.resize(view.width, view.height);
    const c = this.#context;
    c.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    c.clearRect(0, 0, view.width, view.height);
    if (!doc || scene.original) return;
    if (scene.maskShown) this.#areas(doc, view, scene);
    if (scene.path) this.#twoTone(pathOf(scene.path, view), DASH);
    if (scene.crosshair) this.#crosshair(view.toLocal(scene.crosshair), view);
    const at = scene.crosshair ? view.toLocal(scene.crosshair) : scene.cursor;
    if (at && scene.brushPx > 0) this.#brush(at, (scene.brushPx * view.zoom) / 2);
  }

  /** @param {Document} doc @param {View} view @param {Scene} scene */
  #areas(doc, view, scene) {
    const { width, height } = doc.mask;
    if (scene.extending || isExtended(doc.extend)) {
      const { left, top, right, bottom } = doc.extend;
      this.#twoTone(rectPath({ left: 0, top: 0, right: width, bottom: height }, view), DOT);
      this.#twoTone(rectPath({ left: -left, top: -top, right: width + right, bottom: height + bottom }, view), []);
    }
    const box = doc.box;
    if (box) this.#twoTone(rectPath(box, view), DASH);
  }

  /** A light line on a dark one: one of them shows on any picture. @param {Path2D} path @param {number[]} dash */
  #twoTone(path, dash) {
    const c = this.#context;
    c.lineWidth = 3;
    c.strokeStyle = "rgb(0 0 0 / 45%)";
    c.setLineDash([]);
    c.stroke(path);
    c.lineWidth = 1;
    c.strokeStyle = "rgb(255 255 255 / 95%)";
    c.setLineDash(dash);
    c.stroke(path);
    c.setLineDash([]);
  }

  /** @param {Point} at CSS pixels of the host @param {View} view */
  #crosshair({ x, y }, view) {
    const path = new Path2D();
    path.moveTo(crisp(x), 0);
    path.lineTo(crisp(x), view.height);
    path.moveTo(0, crisp(y));
    path.lineTo(view.width, crisp(y));
    this.#twoTone(path, []);
  }

  /** @param {Point} at CSS pixels of the host @param {number} radius */
  #brush({ x, y }, radius) {
    const path = new Path2D();
    path.arc(x, y, Math.max(radius, 0.5), 0, 2 * Math.PI);
    if (radius < TINY) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        path.moveTo(x + dx * (radius + 3), y + dy * (radius + 3));
        path.lineTo(x + dx * (radius + 8), y + dy * (radius + 8));
      }
    }
    this.#twoTone(path, []);
  }
}

/** @param {number} v */
const crisp = (v) => Math.round(v) + 0.5; // a line of one pixel, not two halves

/** @param {Rect} rect in pixels of the picture @param {View} view */
function rectPath(rect, view) {
  const a = view.toLocal({ x: rect.left, y: rect.top });
  const b = view.toLocal({ x: rect.right, y: rect.bottom });
  const path = new Path2D();
  path.rect(crisp(a.x), crisp(a.y), Math.round(b.x) - Math.round(a.x), Math.round(b.y) - Math.round(a.y));
  return path;
}

/** @param {Point[]} points in pixels of the picture @param {View} view */
function pathOf(points, view) {
  const path = new Path2D();
  for (const point of points) {
    const { x, y } = view.toLocal(point);
    path.lineTo(x, y);
  }
  path.closePath();
  return path;
}
