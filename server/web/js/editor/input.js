import { BrushGesture, LassoGesture, RectangleGesture, rounded } from "./gestures.js";
import { PointOrBox, RoughStroke } from "./hints.js";
import { Keyboard } from "./keyboard.js";
import { Polygon } from "./polygon.js";
import { Pointers } from "./pointers.js";

/** @typedef {import("./core.js").Core} Core @typedef {import("./gestures.js").Point} Point */
/** @typedef {import("./gestures.js").Gesture} Gesture */
/**
 * @typedef {{run: (op: import("./ops.js").Op) => void, resize: (factor: number) => void,
 *   select: (hint: import("./hints.js").Hint) => void}} Actions a step, the brush's size, an object pointed at
 */

/** @typedef {{erase: boolean, alt: boolean, shift: boolean}} How Alt takes away with all tools but the brush, Shift adds */

/** @type {How} */
const BY_KEY = { erase: false, alt: false, shift: false };

/** The connection of pointers and keys with the document and the view. */
export class Input {
  /**
   * @param {HTMLElement} host @param {() => Core} core made after this, because it asks where events are
   * @param {Actions} actions
   */
  constructor(host, core, actions) {
    this.host = host;
    this.coreOf = core;
    this.actions = actions;
    this.polygon = new Polygon(host, {
      zoom: () => this.core.view.zoom,
      show: (path) => this.#showPath(path),
      done: (corners, takesAway) => this.#closed(corners, takesAway),
    });
    this.pointers = new Pointers(host, {
      ready: () => this.core.doc !== null,
      start: (at, how) => this.#press(at, how),
      hover: (at, shift) => this.#hover(at, shift),
      resize: (factor) => this.#resize(factor),
      zoom: (factor, at) => this.core.zoom(factor, at),
      pan: (dx, dy) => this.core.pan(dx, dy),
    });
    this.keyboard = new Keyboard(host, {
      ready: () => this.core.doc !== null && !this.pointers.isDrawing,
      tool: () => (this.core.tool === "snap" && this.core.snapShape === "box" ? "rectangle" : this.core.tool),
      zoom: () => this.core.view.zoom,
      middle: () => this.#middle(),
      start: (at, shift) => this.#start(at, { ...BY_KEY, shift }),
      show: (at) => this.core.crosshair(at),
      say: (text) => this.core.stage.say(text),
    });
    this.#watchSpace();
  }

  get core() {
    return this.coreOf();
  }

  get isDrawing() {
    return this.pointers.isDrawing || this.keyboard.isDrawing;
  }

  /** Stop what is being drawn. @param {boolean} keep it, or take it back */
  finish(keep) {
    this.pointers.finish(keep);
    this.keyboard.finish(keep);
    this.polygon.finish(keep);
  }

  /** Set the cursor for the tool, the lock and the space bar. */
  showCursor() {
    const { core } = this;
    const pans = core.tool === "pan" || core.locked || this.pointers.space;
    const { tool } = core;
    const paints = tool === "brush" || tool === "eraser" || (tool === "snap" && core.snapShape === "stroke");
    const draws = core.busy || core.asking ? "wait" : paints ? "brush" : "cross";
    this.host.dataset.cursor = !core.doc ? "none" : pans ? "pan" : draws;
    core.scene.brushPx = paints && !core.busy && !pans ? core.brush.size : 0;
    core.stage.touch();
  }

  /** @param {Point} at CSS pixels of the host @param {import("./pointers.js").Press} how */
  #press(at, how) {
    const { pan, touch } = how;
    const { core } = this;
    this.keyboard.hide();
    core.scene.cursor = touch ? null : at;
    if (pan || core.tool === "pan" || core.locked || core.scene.original) return this.#pan(at);
    const point = { ...core.view.toPicture(at), pressure: at.pressure };
    if (core.tool === "polygon") return this.#corner(point, how);
    return this.#start(point, how, (local) => ({ ...core.view.toPicture(local), pressure: local.pressure }));
  }

  /** @param {Point} from CSS pixels of the host @returns {Gesture} */
  #pan(from) {
    let last = from;
    /** @param {Point} at */
    const move = (at) => {
      this.core.pan(at.x - last.x, at.y - last.y);
      last = at;
    };
    return { move, end: () => {}, cancel: () => {} };
  }

  /**
   * Begin to draw at a point of the picture.
   * @param {Point} point @param {How} how @param {(at: Point) => Point} toPicture of later points
   * @returns {?Gesture}
   */
  #start(point, how, toPicture = (at) => at) {
    const gesture = this.#gesture(point, how);
    if (!gesture) return null;
    const show = () => {
      this.core.scene.path = gesture.path ?? null;
    };
    const hide = () => {
      this.core.scene.path = null;
    };
    show();
    return {
      get path() {
        return gesture.path;
      },
      move: (at) => {
        gesture.move(toPicture(at));
        show();
      },
      end: () => {
        hide();
        gesture.end();
      },
      cancel: () => {
        hide();
        gesture.cancel();
      },
    };
  }

  /** @param {Point} point of the picture @param {How} how @returns {?Gesture} */
  #gesture(point, how) {
    const { core } = this;
    if (!core.doc || core.locked || core.scene.original) return null;
    /** @type {import("./gestures.js").Listener} */
    const listener = { changed: (rect) => core.drawing(rect), done: () => core.edited() };
    const { size, hardness, strength } = core.brush;
    const value = this.#takesAway(how) ? 0 : Math.round(255 * strength);
    if (core.tool === "wand") return this.#wand(point, value);
    if (core.busy) return null;
    if (core.tool === "snap" || core.tool === "click") return this.#pointAt(core.doc, point, value === 0, listener);
    if (core.tool === "lasso" || core.tool === "polygon") return new LassoGesture(core.doc, value, point, listener);
    if (core.tool === "rectangle") return new RectangleGesture(core.doc, value, point, listener);
    if (core.tool === "pan") return null;
    const pressed = core.pressure === "none" ? {} : { pressure: core.pressure };
    const from = (how.shift && core.strokeEnd) || point;
    return this.#stroke(new BrushGesture(core.doc, { size, hardness, value, ...pressed }, from, listener), point);
  }

  /** A stroke that remembers where it ends. @param {BrushGesture} stroke @param {Point} point @returns {Gesture} */
  #stroke(stroke, point) {
    const { core } = this;
    /** @param {Point} to */
    const move = (to) => {
      core.strokeEnd = to;
      stroke.move(to);
    };
    move(point);
    return { move, end: () => stroke.end(), cancel: () => stroke.cancel() };
  }

  /**
   * Point at an object.
   * @param {import("./document.js").Document} doc @param {Point} point @param {boolean} takesAway
   * @param {import("./gestures.js").Listener} listener @returns {Gesture}
   */
  #pointAt(doc, point, takesAway, listener) {
    const { tool, snapShape, brush, view } = this.core;
    /** @param {import("./hints.js").Where} where */
    const done = (where) => this.actions.select({ tool: tool === "snap" ? "snap" : "click", takesAway, ...where });
    if (tool === "snap" && snapShape === "stroke") return new RoughStroke(doc, brush.size, point, listener, done);
    return new PointOrBox(doc.mask, point, tool === "click" ? view.zoom : null, listener, done);
  }

  /** A click with the polygon. @param {Point} point @param {How} how @returns {?Gesture} */
  #corner(point, how) {
    if (this.core.busy) return null;
    const end = () => this.polygon.add(point, this.#takesAway(how));
    return { move: () => {}, end, cancel: () => {} };
  }

  /** @param {Point[]} corners @param {boolean} takesAway */
  #closed(corners, takesAway) {
    const value = takesAway ? 0 : Math.round(255 * this.core.brush.strength);
    const points = corners.flatMap(({ x, y }) => [rounded(x), rounded(y)]);
    this.actions.run({ kind: "polygon", value, points });
  }

  /** @param {?Point[]} path */
  #showPath(path) {
    this.core.scene.path = path;
    this.core.stage.touch();
  }

  /** @param {number} factor @returns {boolean} whether there is a brush to resize */
  #resize(factor) {
    const { tool } = this.core;
    if (tool !== "brush" && tool !== "eraser" && tool !== "snap") return false;
    this.actions.resize(factor);
    return true;
  }

  /** @param {How} how */
  #takesAway({ erase, alt, shift }) {
    const { tool, subtracting } = this.core;
    if (erase || tool === "eraser") return true;
    return tool !== "brush" && (alt || (subtracting && !shift));
  }

  /** @param {Point} at @param {number} value @returns {Gesture} a click, which counts where it began */
  #wand(at, value) {
    const [x, y] = [Math.floor(at.x), Math.floor(at.y)];
    const end = () => this.actions.run({ kind: "wand", x, y, ...this.core.wand, value });
    return { move: () => {}, end, cancel: () => {} };
  }

  /** @param {?Point} at CSS pixels of the host @param {boolean} shift */
  #hover(at, shift) {
    const { core } = this;
    if (at) this.keyboard.hide();
    core.scene.cursor = at;
    core.stage.touch();
    if (at && this.polygon.isOpen) this.polygon.hover(core.view.toPicture(at));
    else if (!this.isDrawing) this.#showLine(at, shift);
  }

  /** Show the straight line that a click with Shift would draw. @param {?Point} at @param {boolean} shift */
  #showLine(at, shift) {
    const { core } = this;
    const draws = shift && at && core.scene.brushPx > 0 && core.strokeEnd;
    core.scene.path = draws ? [core.strokeEnd ?? at, core.view.toPicture(at)] : null;
  }

  /** The middle of the window, as a point of the picture. */
  #middle() {
    const { view, doc } = this.core;
    const { width, height } = doc?.mask ?? { width: 0, height: 0 };
    /** @param {number} v @param {number} side */
    const within = (v, side) => Math.min(Math.max(v, 0), side);
    const { x, y } = view.toPicture({ x: view.width / 2, y: view.height / 2 });
    return { x: within(x, width), y: within(y, height) };
  }

  /** Watch the space bar, which makes any drag a pan while it is held, unless the focus is in a control. */
  #watchSpace() {
    /** @param {boolean} down */
    const set = (down) => {
      this.pointers.space = down;
      this.showCursor();
    };
    window.addEventListener("keydown", (event) => {
      if (event.key === " " && !event.repeat && !isControl(event.target)) set(true);
    });
    window.addEventListener("keyup", (event) => event.key === " " && set(false));
    window.addEventListener("blur", () => set(false));
  }
}

const CONTROLS = "input, textarea, select, button, summary, a, [contenteditable], [role=slider]";
/** @param {?EventTarget} target */
const isControl = (target) => target instanceof Element && target.matches(CONTROLS);
