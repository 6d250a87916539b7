import { t } from "../i18n.js";

/** @typedef {{x: number, y: number}} Point */
/**
 * What the keys do; points are pixels of the picture.
 * @typedef {object} KeyActions
 * @property {() => boolean} ready whether there is a picture, and no pointer is drawing
 * @property {() => string} tool
 * @property {() => number} zoom CSS pixels a pixel of the picture
 * @property {() => Point} middle of what is seen
 * @property {(at: Point, shift: boolean) => ?import("./gestures.js").Gesture} start
 * @property {(at: ?Point) => void} show put the crosshair there, in view
 * @property {(text: string) => void} say
 */

const STEP = 8; // CSS pixels a key press; 1 with Shift
const NEAR = 6; // CSS pixels: a lasso's corner this close to its first one closes it
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PRESS = ["Enter", " "];

/**
 * Painting without a pointer: arrows move a crosshair; Enter or the space bar paints while it is held, or sets the
 * corners of a lasso or rectangle. Esc takes back what is not finished, and then the crosshair.
 */
export class Keyboard {
  /** @type {?Point} */
  #at = null;
  /** @type {?import("./gestures.js").Gesture} */
  #gesture = null;
  /** @type {?string} */
  #heldKey = null;

  /** @param {HTMLElement} host @param {KeyActions} actions */
  constructor(host, actions) {
    this.actions = actions;
    host.addEventListener("keydown", (event) => this.#down(event, event.target === host));
    host.addEventListener("keyup", (event) => event.key === this.#heldKey && this.#release());
    host.addEventListener("blur", () => this.#release());
  }

  get isDrawing() {
    return this.#gesture !== null;
  }

  /** Hide the crosshair: a pointer takes over. */
  hide() {
    if (this.#at === null) return;
    this.finish(false);
    this.#at = null;
    this.actions.show(null);
  }

  /** Stop what is being drawn. @param {boolean} keep it, or take it back */
  finish(keep) {
    const gesture = this.#gesture;
    this.#gesture = this.#heldKey = null;
    if (keep) gesture?.end();
    else gesture?.cancel();
  }

  /** @param {KeyboardEvent} event @param {boolean} onHost */
  #down(event, onHost) {
    if (!onHost || event.ctrlKey || event.metaKey || event.altKey || !this.actions.ready()) return;
    if (!this.#act(event)) return;
    event.preventDefault(); // also marks the key as taken, for the page
    event.stopPropagation();
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key is one of these */
  #act(event) {
    if (event.key in ARROWS) this.#step(ARROWS[event.key], event.shiftKey ? 1 : STEP);
    else if (event.key === "Escape" && this.#at) this.#escape();
    else if (event.key === "Enter" && !this.#at) this.#place(this.actions.middle());
    else if (PRESS.includes(event.key) && this.#at) event.repeat || this.#press(event, this.#at);
    else return false;
    return true;
  }

  /** @param {[number, number]} direction @param {number} px CSS pixels */
  #step([dx, dy], px) {
    const at = this.#at ?? this.actions.middle();
    const by = px / this.actions.zoom();
    const to = { x: at.x + dx * by, y: at.y + dy * by };
    this.#place(to);
    if (this.#gesture && (this.#heldKey || this.actions.tool() === "rectangle")) this.#gesture.move(to);
  }

  /** @param {Point} at */
  #place(at) {
    this.#at = at;
    this.actions.show(at);
    this.actions.say(`${Math.floor(at.x)}, ${Math.floor(at.y)}`);
  }

  #escape() {
    if (this.#gesture) this.finish(false);
    else this.hide();
  }

  /** @param {KeyboardEvent} event @param {Point} at the crosshair */
  #press(event, at) {
    if (!this.#gesture) return this.#begin(event, at);
    if (this.actions.tool() === "rectangle") return this.#close(t("Rectangle set"));
    const corners = this.#gesture.path;
    if (!corners) return; // a brush paints while its first key is held
    /** @param {Point} p */
    const isNear = (p) => Math.hypot(p.x - at.x, p.y - at.y) * this.actions.zoom() <= NEAR;
    if (isNear(corners[0]) || isNear(corners[corners.length - 1])) return this.#close(t("Lasso closed"));
    this.#gesture.move(at);
    this.actions.say(t("Corner {number}", { number: corners.length }));
  }

  /** @param {KeyboardEvent} event @param {Point} at */
  #begin({ key, shiftKey }, at) {
    this.#gesture = this.actions.start(at, shiftKey);
    if (!this.#gesture) return;
    const paints = !this.#gesture.path;
    if (paints) this.#heldKey = key;
    this.actions.say(paints ? t("Painting") : t("Corner {number}", { number: 1 }));
  }

  /** @param {string} text */
  #close(text) {
    this.finish(true);
    this.actions.say(text);
  }

  #release() {
    if (this.#heldKey) this.finish(true);
  }
}
