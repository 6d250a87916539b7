import { context2d } from "./canvas.js";
import { drawInMask } from "./target.js";

/** @typedef {import("./document.js").Document} Document @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./view.js").View} View @typedef {import("./target.js").Target} Target */

const FADE_MS = 400;
const PIXELATED_FROM = 3; // CSS pixels a pixel: from here on single pixels are what one looks at

/** The pictures, in pixels of the picture, under one transform: the caller's, a result over it, a preview. */
export class Layers {
  #result = layer("editor-result");
  #preview = layer("editor-preview");
  /** @type {?ImageBitmap} */
  #bitmap = null;
  /** The place of the result, in pixels of the picture. @type {Rect} */
  #resultRect = { left: 0, top: 0, right: 0, bottom: 0 };

  constructor() {
    this.element = document.createElement("div");
    this.element.className = "editor-world";
    this.ground = document.createElement("div");
    this.ground.className = "editor-ground";
  }

  /** @param {Document} doc */
  show(doc) {
    const { element } = doc.picture;
    if (element.parentNode === this.element) return;
    element.className = "editor-picture";
    this.element.replaceChildren(element, this.#result, this.#preview);
    this.ground.classList.toggle("is-transparent", doc.picture.clear !== null);
  }

  /** Show the document's picture where another one is, which fades away over it. @param {Document} doc */
  fade(doc) {
    const old = this.element.querySelector(".editor-picture");
    this.show(doc);
    if (!old || old === doc.picture.element || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    old.className = "editor-fading";
    doc.picture.element.after(old);
    old.animate({ opacity: [1, 0] }, FADE_MS).onfinish = () => old.remove();
  }

  /** @param {View} view @param {number} width of the picture @param {number} height */
  follow(view, width, height) {
    this.element.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    this.element.classList.toggle("is-pixelated", view.zoom >= PIXELATED_FROM);
    this.ground.style.transform = `translate(${view.x}px, ${view.y}px)`;
    this.ground.style.width = `${width * view.zoom}px`;
    this.ground.style.height = `${height * view.zoom}px`;
  }

  /**
   * @param {?ImageBitmap} bitmap a result, or its patch
   * @param {?Rect} rect the patch's place; a whole result has the picture's own size, or that of the extended one
   * @param {?Document} doc
   */
  setResult(bitmap, rect, doc) {
    if (bitmap === this.#bitmap) return;
    this.#bitmap = bitmap;
    // Without a result the canvas keeps no memory.
    [this.#result.width, this.#result.height] = bitmap ? [bitmap.width, bitmap.height] : [0, 0];
    if (!bitmap || !doc) return;
    context2d(this.#result).drawImage(bitmap, 0, 0);
    this.#resultRect = rect ?? resultRect(bitmap, doc);
    cover(this.#result, this.#resultRect);
  }

  /** Hide the left part of the result. @param {?number} x where it begins to be seen, in pixels of the picture */
  splitAt(x) {
    const hidden = x === null ? 0 : Math.max(0, x - this.#resultRect.left);
    this.#result.style.clipPath = `inset(0 0 0 ${hidden}px)`;
  }

  /**
   * Show a preview where the mask of its painting is; around it the picture stays as sharp as it will be in the result.
   * @param {?ImageBitmap} bitmap what the box looks like so far @param {?Target} target
   */
  setPreview(bitmap, target) {
    if (bitmap && target) {
      drawInMask(this.#preview, target, bitmap);
      cover(this.#preview, target.box);
    } else [this.#preview.width, this.#preview.height] = [0, 0];
  }

  /** @param {boolean} hidden results and previews, to see the original */
  hide(hidden) {
    this.#result.hidden = this.#preview.hidden = hidden;
  }
}

/** @param {string} name */
function layer(name) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [0, 0];
  canvas.className = name;
  canvas.dataset.testid = name;
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @param {Rect} rect in pixels of the picture */
function cover(canvas, { left, top, right, bottom }) {
  canvas.style.left = `${left}px`;
  canvas.style.top = `${top}px`;
  canvas.style.width = `${right - left}px`;
  canvas.style.height = `${bottom - top}px`;
}

/** @param {ImageBitmap} bitmap @param {Document} doc @returns {Rect} */
function resultRect(bitmap, { mask, extend }) {
  const whole = { left: 0, top: 0, right: mask.width, bottom: mask.height };
  if (bitmap.width === mask.width && bitmap.height === mask.height) return whole;
  const { left, top, right, bottom } = extend;
  return { left: -left, top: -top, right: mask.width + right, bottom: mask.height + bottom };
}
