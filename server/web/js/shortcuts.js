import { byId, h } from "./dom.js";
import { t } from "./i18n.js";

/**
 * @typedef {object} Shortcut
 * @property {string} keys as people read them
 * @property {string} label
 * @property {(event: KeyboardEvent) => boolean} fits
 * @property {?(() => void)} run null: another part listens, this is for the dialog
 * @property {boolean} [inFields] also while something is typed
 *
 * @typedef {Pick<Shortcut, "fits"|"run"|"inFields">} Key
 */

/** Keys that have a name instead of a sign. @type {Record<string, string>} */
const NAMES = { Ctrl: t("Ctrl"), Enter: t("Enter"), Esc: t("Esc"), Space: t("Space"), Arrows: t("Arrows") };
/** Elements in which letters are text. */
export const TYPING = "textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=radio])";
const OPEN = "dialog[open], :popover-open"; // has the keys to itself
const PRESSED = "button, summary, a, input, [role=slider]"; // what the space bar is for there

/** Shortcuts, one table for the keys and for the dialog that lists them. */
export class Shortcuts {
  /**
   * @param {Shortcut[]} table @param {Key[]} more keys that share a row with another
   * @param {(held: boolean) => void} hold while the space bar is down
   */
  constructor(table, more, hold) {
    /** @type {Key[]} */
    this.all = [...table, ...more, { fits: key("?"), run: () => this.open() }];
    this.dialog = byId("shortcuts-dialog");
    for (const { keys, label } of table) {
      const names = keys.split(" ").map((name) => h("kbd", {}, NAMES[name] ?? name));
      byId("shortcuts").append(h("dt", {}, names), h("dd", {}, label));
    }
    window.addEventListener("keydown", (event) => this.#down(event));
    this.#watchSpace(hold);
  }

  open() {
    this.dialog.showModal();
  }

  /** @param {KeyboardEvent} event */
  #down(event) {
    if (event.defaultPrevented || document.querySelector(OPEN)) return;
    const typing = event.target instanceof Element ? event.target.closest(TYPING) : null;
    const found = this.all.find((one) => one.run && one.fits(event) && (!typing || one.inFields));
    if (!found?.run) return;
    event.preventDefault();
    if (typing) typing.dispatchEvent(new Event("change")); // else the number just typed would not count
    found.run();
  }

  /**
   * Call `hold` for the space bar, also if `defaultPrevented`: the editor keeps the page from scrolling.
   * @param {(held: boolean) => void} hold
   */
  #watchSpace(hold) {
    /** @param {?EventTarget} target */
    const ignores = (target) => target instanceof Element && target.closest(`${TYPING}, ${PRESSED}`);
    window.addEventListener("keydown", (event) => {
      if (event.key !== " " || event.repeat || ignores(event.target) || document.querySelector(OPEN)) return;
      event.preventDefault();
      hold(true);
    });
    window.addEventListener("keyup", (event) => event.key === " " && hold(false));
    window.addEventListener("blur", () => hold(false));
    window.addEventListener("pointerdown", () => hold(false), true); // it is dragged: the view moves
  }
}

/** A key alone, in either case. @param {...string} keys @returns {(event: KeyboardEvent) => boolean} */
export const key = (...keys) => (event) =>
  !event.ctrlKey && !event.metaKey && !event.altKey && keys.includes(event.key.toLowerCase());

/**
 * A key with Ctrl, on a Mac with Cmd.
 * @param {string} wanted @param {boolean} shift @returns {(event: KeyboardEvent) => boolean}
 */
export const ctrl = (wanted, shift = false) => (event) =>
  (event.ctrlKey || event.metaKey) && !event.altKey && event.shiftKey === shift && event.key.toLowerCase() === wanted;
