import { Stage } from "./stage.js";
import { View } from "./view.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./document.js").Document} Document */
/** @typedef {import("./box.js").BoxSettings} BoxSettings @typedef {{x: number, y: number}} Point */
/** @typedef {"brush"|"eraser"|"lasso"|"rectangle"|"polygon"|"wand"|"snap"|"click"|"pan"} Tool */
/** @typedef {{size: number, hardness: number, strength: number}} Brush size in pixels of the picture, the rest 0..1 */
/** @typedef {{tolerance: number, contiguous: boolean}} WandSettings tolerance 0..255 */

const MARGIN = 0.04; // of the host, around a fitted picture
const EXTENDING_MARGIN = 0.2; // room to drag the handles to
const IN_VIEW = 24; // CSS pixels: the crosshair stays so far inside the window

/** The state that the editor, its input and its stage share: the document, the view of it, the tool and the scene. */
export class Core {
  view = new View();
  /** @type {?Document} */
  doc = null;
  /** @type {Tool} */
  tool = "brush";
  /** @type {Brush} */
  brush = { size: 64, hardness: 1, strength: 1 };
  /** @type {Partial<BoxSettings>} */
  settings = {};
  /** Shapes and selections take away from the mask instead of adding to it. */
  subtracting = false;
  /** What a pen's pressure changes. @type {"none"|import("./brush.js").PressedInto} */
  pressure = "none";
  /** What is drawn for `snap`. @type {"stroke"|"box"} */
  snapShape = "stroke";
  /** True while an answer is waited for, which does not keep from drawing. */
  asking = false;
  /** Where the last stroke ended: Shift draws a straight line from there. @type {?Point} */
  strokeEnd = null;
  /** @type {WandSettings} */
  wand = { tolerance: 32, contiguous: true };
  locked = false;
  /** True while a step is being computed: nothing is drawn then. */
  busy = false;
  /** @type {import("./stage.js").Scene} */
  scene = {
    maskShown: true,
    original: false,
    previewing: false,
    extending: false,
    split: null,
    cursor: null,
    crosshair: null,
    path: null,
    brushPx: 0,
  };

  /**
   * @param {HTMLElement} host
   * @param {(type: string, detail?: any) => void} emit
   * @param {(event: MouseEvent) => Point} localOf where an event is, in CSS pixels of the host
   */
  constructor(host, emit, localOf) {
    this.host = host;
    this.emit = emit;
    this.stage = new Stage(host, this.view, this.scene, () => this.doc, {
      doc: () => this.doc,
      pointAt: (event) => this.view.toPicture(localOf(event)),
      drag: (wanted) => this.#dragExtension(wanted),
      drop: () => this.#dropExtension(),
      share: () => this.scene.split ?? 0,
      shareAt: (x) => (x - this.frame.left) / (this.frame.right - this.frame.left),
      split: (share) => this.#split(share),
    });
    new ResizeObserver(() => this.#resized()).observe(host);
    this.#resized();
  }

  /** The picture and what it is extended by, in pixels of the picture. @returns {Rect} */
  get frame() {
    if (!this.doc) return { left: 0, top: 0, right: 1, bottom: 1 };
    const { left, top, right, bottom } = this.doc.extend;
    return { left: -left, top: -top, right: this.doc.mask.width + right, bottom: this.doc.mask.height + bottom };
  }

  /** Work on another document. @param {Document} doc */
  adopt(doc) {
    this.doc = doc;
    doc.settings = { ...doc.settings, ...this.settings };
    this.newPicture();
  }

  /** Work on no document. */
  close() {
    this.doc = null;
    this.strokeEnd = null;
    this.stage.clear();
    Object.assign(this.scene, { split: null, previewing: false, original: false, path: null, crosshair: null });
    this.edited();
  }

  /** Show the document's new picture. */
  newPicture() {
    this.strokeEnd = null;
    this.stage.setResult(null, null);
    this.stage.setPreview(null, null);
    Object.assign(this.scene, { split: null, previewing: false, original: false, path: null, crosshair: null });
    this.fit();
    this.edited();
  }

  /** Redraw after a step was done, undone or redone. */
  edited() {
    this.scene.maskShown = true;
    this.stage.redraw();
    this.emit("change");
  }

  /** Show what is being drawn. @param {?Rect} rect what has changed of the mask */
  drawing(rect) {
    this.scene.maskShown = true;
    if (this.scene.previewing) this.stage.redraw(); // new strokes are seen over the preview of an earlier mask
    this.scene.previewing = false;
    this.stage.touch(rect);
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    this.emit("busy");
  }

  fit() {
    const share = this.scene.extending ? EXTENDING_MARGIN : MARGIN;
    this.view.fit(this.frame, share * Math.min(this.view.width, this.view.height));
    this.viewed();
  }

  /** @param {number} factor @param {Point} at CSS pixels of the host */
  zoom(factor, at) {
    if (!this.doc) return;
    this.view.zoomAt(factor, at, this.frame);
    this.viewed();
  }

  /** @param {number} dx CSS pixels @param {number} dy */
  pan(dx, dy) {
    if (!this.doc) return;
    this.view.panBy(dx, dy, this.frame);
    this.viewed();
  }

  viewed() {
    this.stage.redraw();
    this.emit("view");
  }

  /** Put the crosshair on a point of the picture, and that into view. @param {?Point} point */
  crosshair(point) {
    this.scene.crosshair = point;
    this.scene.cursor = null;
    if (point) {
      const { x, y } = this.view.toLocal(point);
      /** @param {number} at @param {number} side */
      const outside = (at, side) => Math.min(0, side - IN_VIEW - at) + Math.max(0, IN_VIEW - at);
      const [dx, dy] = [outside(x, this.view.width), outside(y, this.view.height)];
      if (dx || dy) this.pan(dx, dy);
    }
    this.stage.touch();
  }

  #resized() {
    const [width, height] = [Math.max(this.host.clientWidth, 1), Math.max(this.host.clientHeight, 1)];
    this.view.resize(width, height);
    this.stage.resize(width, height);
    if (this.view.fitted) this.fit();
    else this.viewed();
  }

  /** @param {Partial<Rect>} wanted */
  #dragExtension(wanted) {
    if (!this.doc || this.locked) return;
    this.doc.draft = this.doc.fitted(wanted);
    this.scene.maskShown = true;
    this.stage.redraw();
  }

  #dropExtension() {
    if (this.doc?.draft && this.doc.extendTo(this.doc.draft)) this.edited();
  }

  /** @param {number} share */
  #split(share) {
    this.scene.split = share;
    this.stage.touch();
    this.emit("split", share);
  }
}
