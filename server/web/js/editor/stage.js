import { Divider, ExtendHandles } from "./handles.js";
import { Hud } from "./hud.js";
import { Layers } from "./layers.js";
import { MaskView } from "./maskview.js";
import { union } from "./rect.js";

/** @typedef {import("./document.js").Document} Document @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./view.js").View} View @typedef {{x: number, y: number}} Point */
/**
 * The state of the view that is not the document's.
 * @typedef {object} Scene
 * @property {boolean} maskShown not while a result is looked at
 * @property {boolean} original nothing but the picture
 * @property {boolean} previewing the mask is that of the preview: only its outline is drawn
 * @property {boolean} extending
 * @property {?number} split 0..1 of the frame
 * @property {?Point} cursor of the brush, CSS pixels of the host
 * @property {?Point} crosshair pixels of the picture
 * @property {?Point[]} path of a lasso or rectangle, pixels of the picture
 * @property {number} brushPx pixels of the picture; 0 = no brush
 */

/** The canvases and handles inside the host, drawn once a frame at most. */
export class Stage {
  #layers = new Layers();
  #mask = new MaskView();
  #hud = new Hud();
  /** The frame that is asked for, as `requestAnimationFrame` numbers it; 0 = none. */
  #frame = 0;
  /** The part of the mask to draw again: null = nothing, "all", or a part of the picture. @type {null|"all"|Rect} */
  #stale = "all";

  /**
   * @param {HTMLElement} host @param {View} view @param {Scene} scene
   * @param {() => ?Document} doc
   * @param {import("./handles.js").ExtendActions & import("./handles.js").DividerActions} actions
   */
  constructor(host, view, scene, doc, actions) {
    this.view = view;
    this.scene = scene;
    this.doc = doc;
    this.handles = new ExtendHandles(actions);
    this.divider = new Divider(actions);
    this.live = document.createElement("output");
    this.live.className = "editor-live";
    for (const canvas of [this.#mask.canvas, this.#hud.canvas]) canvas.setAttribute("aria-hidden", "true");
    host.append(this.#layers.ground, this.#layers.element, this.#mask.canvas, this.#hud.canvas);
    host.append(this.divider.element, this.handles.element, this.live);
  }

  /** @param {number} width CSS pixels @param {number} height */
  resize(width, height) {
    this.#mask.resize(width, height);
    this.#mask.canvas.style.width = `${width}px`;
    this.#mask.canvas.style.height = `${height}px`;
    this.#hud.resize(width, height);
    this.redraw();
  }

  /** How the mask is shown. */
  get look() {
    return this.#mask.look;
  }

  set look(look) {
    this.#mask.look = look;
    this.redraw();
  }

  /** Take away what belongs to a document. */
  clear() {
    this.setResult(null, null);
    this.setPreview(null, null);
    this.#layers.element.replaceChildren();
  }

  /** Draw everything in the next frame. */
  redraw() {
    this.#stale = "all";
    this.touch();
  }

  /** Draw lines and handles in the next frame, and the mask where it changed. @param {?Rect} [changed] */
  touch(changed = null) {
    if (changed && this.#stale !== "all") this.#stale = union(this.#stale, changed);
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /** Let the picture that is shown fade into the document's, in the same place. */
  fade() {
    const doc = this.doc();
    if (doc) this.#layers.fade(doc);
    this.redraw();
  }

  /** @param {?ImageBitmap} bitmap @param {?import("./rect.js").Rect} rect the place of a patch */
  setResult(bitmap, rect) {
    this.#layers.setResult(bitmap, rect, this.doc());
  }

  /** @param {?ImageBitmap} bitmap @param {?import("./target.js").Target} target */
  setPreview(bitmap, target) {
    this.#layers.setPreview(bitmap, target);
  }

  /** Announce a text to screen readers. @param {string} text */
  say(text) {
    this.live.textContent = text;
  }

  #draw() {
    this.#frame = 0;
    const { view, scene } = this;
    const doc = this.doc();
    this.#hud.draw(doc, view, scene);
    this.handles.draw(doc, view, scene.extending && !scene.original);
    this.#drawSplit(doc);
    if (!doc) return this.#mask.clear();
    this.#layers.show(doc);
    this.#layers.follow(view, doc.mask.width, doc.mask.height);
    this.#layers.hide(scene.original);
    if (scene.original || !scene.maskShown) this.#mask.clear();
    else if (this.#stale) {
      this.#mask.draw(doc, view, this.#stale === "all" ? null : this.#stale, !scene.previewing);
    }
    this.#stale = scene.original || !scene.maskShown ? "all" : null;
  }

  /** @param {?Document} doc */
  #drawSplit(doc) {
    const { split, original } = this.scene;
    if (!doc || split === null || original) {
      this.#layers.splitAt(null);
      this.divider.draw(null, 0);
      return;
    }
    const { left, right } = doc.extend;
    const x = -left + split * (doc.mask.width + left + right);
    this.#layers.splitAt(x);
    this.divider.draw(split, this.view.toLocal({ x, y: 0 }).x);
  }
}
