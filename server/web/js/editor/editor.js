import { t } from "../i18n.js";
import { Background } from "./background.js";
import { Core } from "./core.js";
import { Document } from "./document.js";
import { Input } from "./input.js";
import { fittedLook } from "./look.js";
import { readMask, readPicture } from "./picture.js";
import { encodeGrey, toDataUrl } from "./png.js";
import { Steps } from "./steps.js";
import { isTarget, targetOf, thumbnailOf } from "./target.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./box.js").BoxSettings} BoxSettings */
/** @typedef {import("./core.js").Tool} Tool @typedef {import("./core.js").Brush} Brush */
/** @typedef {import("./core.js").WandSettings} WandSettings */
/** @typedef {{blob: Blob, name: string}} PictureFile @typedef {import("./target.js").Target} Target */
/** @typedef {{file: PictureFile, steps: import("./ops.js").Op[]}} Chapter a picture, and the steps on it */
/** @typedef {{at: number, chapters: Chapter[]}} Past `at`: the steps that are not undone, pictures among them */
/** @typedef {PictureFile & {shown: Blob, width: number, height: number, hasAlpha: boolean}} OpenPicture */

export const TOOLS = Object.freeze(["brush", "eraser", "lasso", "polygon", "rectangle", "wand", "snap", "click", "pan"]);
const MOST_BRUSH = 2000;

/**
 * A picture and the mask that is painted on it. Lengths are pixels of the picture unless said otherwise.
 *
 * Events: "change" (mask, picture or extension), "swap" (a better file of the same picture), "tool" (tool or
 * its settings), "view" (zoom or place), "split" (the divider was moved; `detail` is the share), "busy" (a step is
 * being computed, or no longer), "failed" (it could not be; `detail` is the error), "select" (an object was pointed
 * at; `detail` is a `Hint`).
 */
export class Editor extends EventTarget {
  /** @type {Core} */
  #core;
  #input;
  #background = new Background();
  #steps;
  #opened = 0;

  /**
   * @param {HTMLElement} host an element with a size of its own; the editor fills it
   * @param {(blob: Blob) => Promise<Blob>} display gives a file that the browser can show
   */
  constructor(host, display = async (blob) => blob) {
    super();
    this.display = display;
    host.classList.add("editor");
    host.tabIndex = 0;
    host.setAttribute("role", "application");
    if (!host.hasAttribute("aria-label")) {
      host.setAttribute("aria-label", t("Picture. Arrow keys move a crosshair, Enter or Space paints."));
    }
    this.#input = new Input(host, () => this.#core, {
      run: (op) => this.#run(op),
      resize: (factor) => this.resizeBrush(factor),
      select: (hint) => this.#core.emit("select", hint),
    });
    /** @type {Core["emit"]} */
    const emit = (type, detail) => this.dispatchEvent(new CustomEvent(type, { detail }));
    this.#core = new Core(host, emit, (event) => this.#input.pointers.local(event));
    this.#steps = new Steps(this.#core, this.#background);
    this.addEventListener("busy", () => this.#input.showCursor());
    this.#input.showCursor();
  }

  get #doc() {
    return this.#core.doc;
  }

  // Pictures

  /**
   * Open a picture; what was open is gone.
   * @param {PictureFile} file
   * @throws {Error} with a sentence, and nothing has changed
   */
  async open(file) {
    await this.restore(file, null);
  }

  /**
   * Replace the picture and clear mask and extension: one step that can be undone.
   * @param {PictureFile} file
   */
  async replace(file) {
    if (!this.#doc) return this.open(file);
    const doc = this.#doc;
    const picture = await readPicture(file, this.display);
    if (doc !== this.#doc) return; // another one was opened meanwhile
    this.#input.finish(true);
    this.#steps.drop();
    doc.replace(picture);
    this.#core.newPicture();
  }

  /**
   * Put a file in the place of others that show nearly the same, also where undo brings them back. Mask, view and
   * history stay; it is no step. Emits "swap".
   * @param {(blob: Blob) => boolean} isOld whether a file is to be replaced @param {PictureFile} file
   */
  async swap(isOld, file) {
    const doc = this.#doc;
    if (!doc?.history.entries.some(({ picture }) => isOld(picture.blob))) return;
    const picture = await readPicture(file, this.display);
    if (doc !== this.#doc) return; // another one was opened meanwhile
    doc.history.swap(({ blob, width, height }) => {
      return isOld(blob) && width === picture.width && height === picture.height;
    }, picture);
    this.#core.stage.fade();
    this.#core.emit("swap");
  }

  /**
   * Open a picture and repeat a draft on it.
   * @param {PictureFile} file @param {any} json what `toJSON` gave
   * @throws {Error} with a sentence, and nothing has changed
   */
  async restore(file, json) {
    const turn = ++this.#opened;
    const doc = new Document(await readPicture(file, this.display));
    if (json !== null) await doc.repeat(json, this.#background);
    this.#adopt(doc, turn);
  }

  /**
   * Open a picture with all that undo brings back, and what was undone.
   * @param {Past} past @throws {Error} with a sentence, and nothing has changed
   */
  async revive({ at, chapters }) {
    const turn = ++this.#opened;
    const read = [];
    for (const { file, steps } of chapters) read.push({ picture: await readPicture(file, this.display), steps });
    this.#adopt(await Document.revive({ at, chapters: read }, this.#background), turn);
  }

  /** @returns {?Past} the history, as `revive` takes it */
  get past() {
    if (!this.#doc) return null;
    const { at, chapters } = this.#doc.history;
    return { at, chapters: chapters.map(({ picture: { blob, name }, steps }) => ({ file: { blob, name }, steps })) };
  }

  /** Show no picture; what was open is gone. */
  close() {
    this.#opened += 1;
    this.#input.finish(false);
    this.#steps.drop();
    this.#core.close();
    this.#input.showCursor();
  }

  /** @param {Document} doc @param {number} turn */
  #adopt(doc, turn) {
    if (turn !== this.#opened) return; // the last one asked for stays
    this.#input.finish(false);
    this.#steps.drop();
    this.#core.adopt(doc);
    this.#input.showCursor();
    this.#prepare();
  }

  /** The steps since the picture was opened, as plain data. */
  toJSON() {
    return this.#doc ? this.#doc.toJSON() : null;
  }

  /** @returns {?OpenPicture} */
  get picture() {
    if (!this.#doc) return null;
    const { blob, shown, name, width, height, clear } = this.#doc.picture;
    return { blob, shown, name, width, height, hasAlpha: clear !== null };
  }

  // Tools

  /** @returns {Tool} */
  get tool() {
    return this.#core.tool;
  }

  set tool(tool) {
    if (!TOOLS.includes(tool)) throw new Error(`There is no tool ${tool}.`);
    if (tool === this.#core.tool) return;
    this.#input.finish(false);
    this.#core.tool = tool;
    this.#input.showCursor();
    this.#core.emit("tool");
    this.#prepare();
  }

  /** @returns {Brush} */
  get brush() {
    return { ...this.#core.brush };
  }

  /** @param {Partial<Brush>} brush */
  set brush(brush) {
    const { size, hardness, strength } = { ...this.#core.brush, ...brush };
    /** @param {unknown} n @param {number} low @param {number} high */
    const between = (n, low, high) => Math.min(Math.max(Number(n) || 0, low), high);
    this.#core.brush = {
      size: between(size, 1, MOST_BRUSH),
      hardness: between(hardness, 0, 1),
      strength: between(strength, 0, 1),
    };
    this.#input.showCursor();
    this.#core.emit("tool");
  }

  /** Make the brush larger or smaller, by at least a pixel. @param {number} factor */
  resizeBrush(factor) {
    const { size } = this.brush;
    const wanted = Math.round(size * factor);
    this.brush = { size: factor > 1 ? Math.max(wanted, size + 1) : Math.min(wanted, size - 1) };
  }

  /** What a pen's pressure changes: "none", "size" or "opacity". */
  get pressure() {
    return this.#core.pressure;
  }

  set pressure(pressure) {
    this.#core.pressure = pressure;
    this.#core.emit("tool");
  }

  /** What is drawn with the tool "snap": "stroke" or "box". */
  get snapShape() {
    return this.#core.snapShape;
  }

  set snapShape(shape) {
    this.#core.snapShape = shape;
    this.#core.emit("tool");
  }

  /** How the mask is shown. @returns {import("./look.js").Look} */
  get look() {
    return { ...this.#core.stage.look };
  }

  /** @param {Partial<import("./look.js").Look>} look */
  set look(look) {
    this.#core.stage.look = fittedLook(look, this.#core.stage.look);
    this.#core.emit("tool");
  }

  /** @returns {WandSettings} */
  get wand() {
    return { ...this.#core.wand };
  }

  /** @param {Partial<WandSettings>} wand */
  set wand(wand) {
    const { tolerance, contiguous } = { ...this.#core.wand, ...wand };
    const level = Math.min(Math.max(Math.round(Number(tolerance)) || 0, 0), 255);
    this.#core.wand = { tolerance: level, contiguous: Boolean(contiguous) };
    this.#core.emit("tool");
  }

  /** Whether shapes and selections take away from the mask. */
  get subtracting() {
    return this.#core.subtracting;
  }

  set subtracting(on) {
    this.#core.subtracting = on;
    this.#core.emit("tool");
  }

  /** Have the pixels ready before the first click. */
  #prepare() {
    if (!this.#doc || this.#core.tool !== "wand") return;
    this.#background.prepare(this.#doc.picture.blob).catch((error) => this.#core.emit("failed", error));
  }

  // The mask

  /** True in the middle of a stroke. */
  get isDrawing() {
    return this.#input.isDrawing;
  }

  clear() {
    if (this.#doc?.mask.bounds(1)) this.#run({ kind: "fill", value: 0 });
  }

  /** Mark everything, with the brush's strength. */
  fill() {
    this.#run({ kind: "fill", value: Math.round(255 * this.#core.brush.strength) });
  }

  invert() {
    this.#run({ kind: "invert" });
  }

  /** @param {number} px how far; a negative number shrinks */
  grow(px) {
    if (Math.round(px) !== 0 && this.#doc?.mask.bounds(1)) this.#run({ kind: "grow", px });
  }

  /** Repaint where the picture is transparent. */
  maskFromAlpha() {
    this.#run({ kind: "alpha" });
  }

  /** @param {Blob} blob white = repaint @throws {Error} with a sentence: no picture, or of another size */
  async loadMask(blob) {
    const doc = this.#doc;
    if (!doc) throw new Error(t("Open a picture before its mask."));
    const { width, height } = doc.mask;
    const values = await readMask(blob, width, height);
    const png = await toDataUrl(await encodeGrey(values, width, height));
    await this.#steps.settled();
    if (doc !== this.#doc || this.#core.locked || doc.mask.width !== width || doc.mask.height !== height) return;
    this.#input.finish(true);
    doc.load(values, png);
    this.#core.edited();
  }

  /** True if the server would repaint nothing; with soft requests a faint grey is repainted. */
  get isEmpty() {
    return this.#doc?.isEmpty ?? true;
  }

  /** True if all that is marked is too faint: it counts only in soft requests. */
  get isFaint() {
    return this.isEmpty && Boolean(this.#doc?.mask.bounds(1));
  }

  /** Wait for the steps that are computed in the background. */
  async settled() {
    await this.#steps.settled();
  }

  /** @returns {Promise<Blob>} a grey PNG of the picture's size, white = repaint */
  async maskBlob() {
    await this.#steps.settled();
    if (!this.#doc) throw new Error(t("Open a picture first."));
    const { values, width, height } = this.#doc.mask;
    return encodeGrey(values, width, height);
  }

  /**
   * Mark what a server selected, or take it away.
   * @param {Rect} rect in the picture @param {string} png its greys, as a `data:` URL @param {boolean} takesAway
   */
  select(rect, png, takesAway) {
    const value = takesAway ? 0 : Math.round(255 * this.#core.brush.strength);
    this.#run({ kind: "patch", rect, png, value });
  }

  /** True while the page waits for what was selected; one can go on drawing. @param {boolean} asking */
  set asking(asking) {
    this.#core.asking = asking;
    this.#input.showCursor();
  }

  /** A stroke as a mask of its own. @param {import("./ops.js").StrokeOp} stroke @returns {Promise<Blob>} a grey PNG */
  async strokeBlob(stroke) {
    if (!this.#doc) throw new Error("Open a picture first.");
    return this.#background.stroke(stroke, this.#doc.mask.width, this.#doc.mask.height);
  }

  /** Mark what looks like a pixel, as a click with the wand does. @param {number} x @param {number} y */
  wandAt(x, y) {
    this.#run({ kind: "wand", x, y, ...this.#core.wand, value: Math.round(255 * this.#core.brush.strength) });
  }

  /** @param {import("./ops.js").Op} op */
  #run(op) {
    if (!this.#doc || this.#core.locked) return;
    this.#input.finish(true);
    this.#steps.run(op);
  }

  // History

  get canUndo() {
    return this.#steps.busy || this.#doc?.history.canUndo === true;
  }

  get canRedo() {
    return this.#doc?.history.canRedo ?? false;
  }

  undo() {
    this.#step(-1);
  }

  redo() {
    this.#step(1);
  }

  /** @param {-1|1} by */
  #step(by) {
    if (!this.#doc || this.#core.locked) return;
    this.#input.finish(true); // an unfinished stroke is what is undone
    if (this.#steps.busy) return this.#dropSteps();
    if (!(by < 0 ? this.canUndo : this.canRedo)) return;
    const before = this.#doc.picture;
    this.#doc.go(by);
    if (before === this.#doc.picture) this.#core.edited();
    else this.#core.newPicture();
  }

  /** An unfinished step is what is undone. */
  #dropSteps() {
    this.#steps.drop();
    this.#core.edited();
  }

  // Extension and cut box

  /** The pixels added on each side. @returns {Rect} */
  get extend() {
    return { ...(this.#doc?.extend ?? { left: 0, top: 0, right: 0, bottom: 0 }) };
  }

  /** @param {Partial<Rect>} wanted is cut to what the server takes */
  set extend(wanted) {
    if (!this.#doc || this.#core.locked) return;
    if (this.#doc.extendTo(wanted)) this.#core.edited();
  }

  get extending() {
    return this.#core.scene.extending;
  }

  set extending(on) {
    if (on === this.#core.scene.extending) return;
    this.#core.scene.extending = on;
    if (this.#core.view.fitted) this.#core.fit();
    this.#core.stage.redraw();
  }

  /** @returns {Partial<BoxSettings>} */
  get settings() {
    return { ...this.#core.settings };
  }

  /** The fields of the request that the cut box depends on. @param {Partial<BoxSettings>} settings */
  set settings(settings) {
    Object.assign(this.#core.settings, settings);
    if (this.#doc) Object.assign(this.#doc.settings, settings);
    this.#core.stage.redraw();
  }

  /** The part that will be painted; negative, or beyond the picture, where it is extended. @returns {?Rect} */
  get box() {
    return this.#doc?.box ?? null;
  }

  // Results

  /**
   * A result over the picture, all of it or the part right of a divider.
   * @param {?{bitmap: ImageBitmap, rect?: ?Rect, split?: ?number}} overlay `rect` is the place of a patch, in pixels of
   *   the picture; null takes it away
   */
  overlay(overlay) {
    if (!this.#doc) return;
    const { scene, stage } = this.#core;
    stage.setResult(overlay?.bitmap ?? null, overlay?.rect ?? null);
    scene.split = overlay?.split ?? null;
    scene.maskShown = !overlay;
    stage.redraw();
  }

  /** The divider's place, 0..1, or null. */
  get split() {
    return this.#core.scene.split;
  }

  /** What would be painted now: its box, and the mask in it. @returns {?Target} */
  get target() {
    return this.#doc ? targetOf(this.#doc) : null;
  }

  /** A small picture of a target on the picture that is open. @param {Target} target @returns {Promise<?Blob>} */
  async thumbnail(target) {
    return this.#doc ? thumbnailOf(this.#doc, target) : null;
  }

  /**
   * Show what a painting looks like so far, in the mask with which it was asked for. What is marked is filled over it
   * only if that has changed since.
   * @param {?ImageBitmap} bitmap its box; null takes it away @param {?Target} [target]
   */
  preview(bitmap, target = this.target) {
    if (!this.#doc) return;
    const { stage, scene } = this.#core;
    stage.setPreview(bitmap, target);
    scene.previewing = bitmap !== null && target !== null && !this.isDrawing && isTarget(this.#doc, target);
    stage.redraw();
  }

  /** True while only the picture is shown, without mask and result. */
  get original() {
    return this.#core.scene.original;
  }

  set original(on) {
    this.#core.scene.original = on;
    this.#core.stage.redraw();
  }

  // View

  /** CSS pixels a pixel of the picture. */
  get zoom() {
    return this.#core.view.zoom;
  }

  fit() {
    this.#core.fit();
  }

  /** @param {number} factor around the middle */
  zoomBy(factor) {
    const { view } = this.#core;
    this.#core.zoom(factor, { x: view.width / 2, y: view.height / 2 });
  }

  get locked() {
    return this.#core.locked;
  }

  /** While locked nothing can be edited; zoom and pan go on. */
  set locked(on) {
    if (on) this.#input.finish(true);
    this.#core.locked = on;
    this.#input.showCursor();
  }
}
