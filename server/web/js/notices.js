import { ApiError } from "./api.js";
import { duration, h } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

/**
 * @typedef {{label: string, run: () => void}} Action
 * @typedef {"picture"|"mask"|"prompt"|"file"|"server"|null} About what a notice says is missing, or went wrong: it goes with it
 * @typedef {{level?: "info"|"error", action?: ?Action, afterS?: ?number, lasting?: boolean, testid?: string,
 *   about?: About}} How
 */

const KEPT = t("Is it still running? Your picture and your mask are kept.");
const SHOWN_MS = 6000; // what needs no answer goes by itself

/** Sentences over the canvas: what happened and what to do now. One at a time, the newest. */
export class Notices {
  #timer = 0;
  /** @type {About} */
  about = null;

  /** @param {HTMLElement} place with role="status" */
  constructor(place) {
    this.place = place;
  }

  /**
   * @param {string} text a sentence
   * @param {How} how an action; `afterS`: seconds until it can be taken, counted down on the button
   */
  say(text, { level = "info", action = null, afterS = null, lasting = false, testid = "notice", about = null } = {}) {
    this.clear();
    this.about = about;
    const button = action && h("button", { type: "button", class: "button", click: () => this.#take(action) });
    const attributes = { type: "button", class: "icon-button", "aria-label": t("Close this message") };
    const close = h("button", { ...attributes, click: () => this.clear() }, icon("close"));
    const words = h("p", {}, text);
    this.place.append(h("div", { class: `notice is-${level}`, "data-testid": testid }, words, button, close));
    if (button) this.#countDown(button, action.label, afterS ?? 0);
    else if (!lasting && level === "info") this.#timer = setTimeout(() => this.clear(), SHOWN_MS);
  }

  /**
   * An error in the server's own sentence, and what can be done about it.
   * @param {unknown} error @param {?(() => void)} again what may be tried again @param {?(() => void)} newKey
   * @param {About} about
   */
  fail(error, again = null, newKey = null, about = null) {
    const { message } = /** @type {Error} */ (error);
    const offline = error instanceof ApiError && error.status === 0;
    /** @type {How} */
    const how = { level: "error", testid: "error", about: offline ? "server" : about };
    if (!(error instanceof ApiError)) return this.say(message, how);
    const { status, retryAfterS: afterS } = error;
    const retry = again && { label: t("Try again"), run: again };
    const words = status === 0 ? `${message} ${KEPT}` : sentence(message);
    if (status === 401 || status === 403) {
      this.say(words, { ...how, action: newKey && { label: t("Use another key"), run: newKey } });
    } else if (status === 0 || status === 429 || status >= 500) this.say(words, { ...how, action: retry, afterS });
    else this.say(words, how);
  }

  /** Take away what is no longer true. @param {About} about */
  settle(about) {
    if (about !== null && this.about === about) this.clear();
  }

  clear() {
    clearTimeout(this.#timer);
    this.about = null;
    this.place.replaceChildren();
  }

  /** @param {Action} action */
  #take(action) {
    this.clear();
    action.run();
  }

  /** @param {HTMLButtonElement} button @param {string} label @param {number} seconds */
  #countDown(button, label, seconds) {
    button.disabled = seconds > 0;
    button.textContent = seconds > 0 ? t("{label} in {time}", { label, time: duration(seconds) }) : label;
    if (seconds > 0) this.#timer = setTimeout(() => this.#countDown(button, label, seconds - 1), 1000);
  }
}

/** Make a sentence of a server's error, which begins with a field's name and has no full stop. @param {string} text */
function sentence(text) {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}
