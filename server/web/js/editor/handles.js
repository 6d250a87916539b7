import { t } from "../i18n.js";
import { place, slider, setValue } from "./sliders.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./view.js").View} View */
/** @typedef {import("./document.js").Document} Document @typedef {import("./sliders.js").Point} Point */

/** @type {Record<keyof Rect, string>} */
const LABELS = {
  left: t("Extend the picture: left, pixels"),
  top: t("Extend the picture: top, pixels"),
  right: t("Extend the picture: right, pixels"),
  bottom: t("Extend the picture: bottom, pixels"),
};
/** @type {(keyof Rect)[]} */
const SIDES = ["left", "top", "right", "bottom"];
const OUTWARDS = { left: "ArrowLeft", top: "ArrowUp", right: "ArrowRight", bottom: "ArrowDown" };
const INWARDS = { left: "ArrowRight", top: "ArrowDown", right: "ArrowLeft", bottom: "ArrowUp" };
const STEP = 8; // pixels of the picture a key press
const LEAP = 64;
const MARGIN = 14; // CSS pixels: a handle stays this far inside the window

/**
 * @typedef {object} ExtendActions
 * @property {() => ?Document} doc
 * @property {(event: PointerEvent) => Point} pointAt in pixels of the picture
 * @property {(wanted: Partial<Rect>) => void} drag not yet a step
 * @property {() => void} drop now it is one
 */

/** The four handles that extend the picture. */
export class ExtendHandles {
  /** @param {ExtendActions} actions */
  constructor(actions) {
    this.actions = actions;
    this.element = document.createElement("div");
    this.element.className = "editor-handles";
    this.element.hidden = true;
    this.handles = Object.fromEntries(SIDES.map((side) => [side, this.#handle(side)]));
    this.element.append(...Object.values(this.handles));
  }

  /** @param {keyof Rect} side */
  #handle(side) {
    const { doc, pointAt, drag, drop } = this.actions;
    return slider({
      testid: `extend-${side}`,
      label: LABELS[side],
      className: `editor-handle is-${side}`,
      keys: {
        [OUTWARDS[side]]: STEP,
        [INWARDS[side]]: -STEP,
        PageUp: LEAP,
        PageDown: -LEAP,
        Home: -Infinity,
      },
      valueAt: (event) => beyond(side, pointAt(event), doc()?.mask ?? { width: 0, height: 0 }),
      value: () => doc()?.extend[side] ?? 0,
      set: (value) => drag({ [side]: Math.max(0, value) }),
      done: drop,
    });
  }

  /** @param {?Document} doc @param {View} view @param {boolean} shown */
  draw(doc, view, shown) {
    this.element.hidden = !shown || !doc;
    if (!shown || !doc) return;
    const { extend, mask } = doc;
    const a = view.toLocal({ x: -extend.left, y: -extend.top });
    const b = view.toLocal({ x: mask.width + extend.right, y: mask.height + extend.bottom });
    // In the middle of what is seen of the edge, and never out of reach.
    const x = middle(a.x, b.x, view.width);
    const y = middle(a.y, b.y, view.height);
    const at = { left: { x: a.x, y }, top: { x, y: a.y }, right: { x: b.x, y }, bottom: { x, y: b.y } };
    for (const side of SIDES) {
      place(this.handles[side], { x: within(at[side].x, view.width), y: within(at[side].y, view.height) });
      setValue(this.handles[side], extend[side], 8192, `${extend[side]} pixels`);
    }
  }
}

/** @param {number} at @param {number} side */
const within = (at, side) => Math.min(Math.max(at, MARGIN), side - MARGIN);
/** @param {number} from @param {number} to @param {number} side */
const middle = (from, to, side) => (within(from, side) + within(to, side)) / 2;

/**
 * How far a point lies outside the picture at one side, in whole pixels.
 * @param {keyof Rect} side @param {Point} point @param {{width: number, height: number}} picture
 */
function beyond(side, point, { width, height }) {
  const far = { left: -point.x, top: -point.y, right: point.x - width, bottom: point.y - height };
  return Math.round(far[side]);
}

/**
 * @typedef {object} DividerActions
 * @property {(event: PointerEvent) => Point} pointAt in pixels of the picture
 * @property {() => number} share where it is, 0..1
 * @property {(x: number) => number} shareAt of a place in pixels of the picture
 * @property {(share: number) => void} split
 */

/** The line between original and result. */
export class Divider {
  /** @param {DividerActions} actions */
  constructor({ pointAt, share, shareAt, split }) {
    const step = 0.02;
    this.element = slider({
      testid: "compare-divider",
      label: t("Compare: the original is left of the line, the result right of it"),
      className: "editor-divider",
      keys: {
        ArrowLeft: -step,
        ArrowRight: step,
        ArrowDown: -step,
        ArrowUp: step,
        PageUp: 5 * step,
        PageDown: -5 * step,
        Home: -1,
        End: 1,
      },
      valueAt: (event) => shareAt(pointAt(event).x),
      value: share,
      set: (value) => split(Math.min(Math.max(value, 0), 1)),
      done: () => {},
    });
    this.element.hidden = true;
  }

  /** @param {?number} share null hides it @param {number} x CSS pixels of the host */
  draw(share, x) {
    this.element.hidden = share === null;
    if (share === null) return;
    place(this.element, { x, y: 0 });
    setValue(this.element, Math.round(share * 100), 100, `${Math.round(share * 100)} % original`);
  }
}
