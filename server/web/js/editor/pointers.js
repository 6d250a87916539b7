/** @typedef {{x: number, y: number, pressure?: number}} Point @typedef {import("./gestures.js").Gesture} Gesture */
/**
 * How a pointer went down: `erase` with the right button or a pen's other end.
 * @typedef {{erase: boolean, pan: boolean, touch: boolean, alt: boolean, shift: boolean}} Press
 */
/**
 * What the pointers do, in CSS pixels of the host.
 * @typedef {object} Actions
 * @property {() => boolean} ready whether there is a picture; without one, clicks and scrolling are the page's
 * @property {(at: Point, how: Press) => ?Gesture} start
 * @property {(at: ?Point, shift: boolean) => void} hover where a mouse or pen is, null where none is
 * @property {(factor: number) => boolean} resize the brush, if that is the tool
 * @property {(factor: number, at: Point) => void} zoom
 * @property {(dx: number, dy: number) => void} pan
 */

const ERASER_BUTTON = 5; // a pen's other end
const WHEEL = 0.0015; // of a doubling, about, per pixel of scrolling
const WHEEL_PINCH = 0.01; // a touchpad's pinch comes as small steps with Ctrl
const LINE = 16;
const PAGE = 400;

/** The pointer and wheel events of `host` as actions: draw, pan, pinch. */
export class Pointers {
  /** Fingers on the host, where they are. @type {Map<number, Point>} */
  #fingers = new Map();
  /** @type {?Gesture} */
  #gesture = null;
  #id = -1;
  /** Two fingers are down: nothing is drawn until all are lifted. */
  #pinching = false;
  /** The space bar turns any drag into a pan. */
  space = false;

  /** @param {HTMLElement} host @param {Actions} actions */
  constructor(host, actions) {
    this.host = host;
    this.actions = actions;
    host.addEventListener("pointerdown", (event) => this.#down(event));
    host.addEventListener("pointermove", (event) => this.#move(event));
    host.addEventListener("pointerup", (event) => this.#up(event));
    host.addEventListener("pointercancel", (event) => this.#up(event));
    host.addEventListener("pointerleave", () => this.#gesture ?? actions.hover(null, false));
    host.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    host.addEventListener("contextmenu", (event) => event.preventDefault());
    host.addEventListener("keydown", (event) => event.key === "Escape" && this.#escape(event));
    // A middle click would start scrolling, or paste on Linux.
    host.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
    host.addEventListener("auxclick", (event) => event.preventDefault());
  }

  get isDrawing() {
    return this.#gesture !== null;
  }

  /**
   * Where an event is on the host, in the host's own CSS pixels, under any zoom or transform.
   * @param {MouseEvent} event
   */
  local(event) {
    const box = this.host.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / scale(box.width, this.host.offsetWidth) - this.host.clientLeft,
      y: (event.clientY - box.top) / scale(box.height, this.host.offsetHeight) - this.host.clientTop,
    };
  }

  /** Stop what is being drawn. @param {boolean} keep it, or take it back */
  finish(keep) {
    const gesture = this.#gesture;
    this.#gesture = null;
    if (keep) gesture?.end();
    else gesture?.cancel();
  }

  /** @param {KeyboardEvent} event */
  #escape(event) {
    if (!this.#gesture) return;
    event.preventDefault();
    event.stopPropagation();
    this.finish(false);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.actions.ready()) return;
    const at = this.local(event);
    const touch = event.pointerType === "touch";
    this.host.focus({ preventScroll: true });
    event.preventDefault(); // no text selection, no mouse events after touch
    if (touch) this.#fingers.set(event.pointerId, at);
    if (this.#fingers.size === 2) {
      this.#pinching = true;
      this.finish(false);
    }
    if (this.#pinching || this.#gesture) return;
    this.host.setPointerCapture(event.pointerId); // strokes go on outside
    this.#id = event.pointerId;
    this.#gesture = this.actions.start({ ...at, pressure: pressureOf(event) }, {
      erase: event.button === 2 || event.button === ERASER_BUTTON,
      pan: event.button === 1 || this.space,
      touch,
      alt: event.altKey,
      shift: event.shiftKey,
    });
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const at = this.local(event);
    if (this.#pinching) this.#pinch(event.pointerId, at);
    else if (this.#gesture && event.pointerId === this.#id) this.#draw(event);
    if (this.#fingers.has(event.pointerId)) this.#fingers.set(event.pointerId, at);
    if (event.pointerType !== "touch") this.actions.hover(at, event.shiftKey);
  }

  /** @param {PointerEvent} event */
  #draw(event) {
    // A dialog can swallow the release: a mouse without a button does not paint.
    if (event.buttons === 0) return this.finish(true);
    // The browser hands over one event a frame; the movement between is in the coalesced ones.
    const all = event.getCoalescedEvents();
    for (const one of all.length > 0 ? all : [event]) {
      this.#gesture?.move({ ...this.local(one), pressure: pressureOf(one) });
    }
  }

  /** @param {number} id of the pointer @param {Point} at */
  #pinch(id, at) {
    if (this.#fingers.size !== 2 || !this.#fingers.has(id)) return;
    const before = [...this.#fingers.values()];
    this.#fingers.set(id, at);
    const after = [...this.#fingers.values()];
    const [from, to] = [middle(before), middle(after)];
    this.actions.pan(to.x - from.x, to.y - from.y);
    this.actions.zoom(distance(after) / Math.max(distance(before), 1), to);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    this.#fingers.delete(event.pointerId);
    if (this.#fingers.size === 0) this.#pinching = false;
    if (event.pointerId === this.#id) this.finish(true);
    if (event.pointerType === "touch") this.actions.hover(null, false);
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!this.actions.ready()) return;
    event.preventDefault();
    const unit = [1, LINE, PAGE][event.deltaMode];
    const speed = event.ctrlKey ? WHEEL_PINCH : WHEEL;
    const factor = Math.exp(-event.deltaY * unit * speed);
    if (event.altKey && this.actions.resize(factor)) return;
    this.actions.zoom(factor, this.local(event));
  }
}

/** A mouse has no pressure, and says 0.5. @param {PointerEvent} event */
const pressureOf = (event) => (event.pointerType === "pen" ? event.pressure : 1);
/**
 * How much larger a side is seen than laid out. Layout sides are rounded: a difference below a pixel is none.
 * @param {number} seen @param {number} laidOut
 */
const scale = (seen, laidOut) => (Math.abs(seen - laidOut) < 1 ? 1 : seen / laidOut);
/** @param {Point[]} points two */
const middle = ([a, b]) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
/** @param {Point[]} points two */
const distance = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y);
