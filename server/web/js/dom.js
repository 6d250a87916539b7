import { t } from "./i18n.js";

/** @typedef {Node|string|null|undefined|false} Child */

/**
 * An element. Attributes whose value is false or null are left out, true is an empty one; functions are listeners
 * by the event's name. No markup is ever parsed, so that no file name and no text from the server can become markup.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Child|Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, /** @type {EventListener} */ (value));
    else set(element, name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** @param {Element} element @param {string} name @param {unknown} value */
export function set(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/** Show or hide. @param {HTMLElement} element @param {boolean} shown */
export function show(element, shown) {
  element.hidden = !shown;
}

/** The element of the page's skeleton; index.html says of what kind. @param {string} id @returns {any} */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** Call `action` once `ms` milliseconds after the last call. @param {() => void} action @param {number} ms */
export function debounced(action, ms) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, ms);
  };
}

/** The `detail` of a CustomEvent; the class that emits it describes it. @param {Event} event @returns {any} */
export const detailOf = (event) => /** @type {CustomEvent} */ (event).detail;

/** Save a file as a download. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
}

const LONG_S = 90; // from here on in minutes

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < LONG_S) return t("{count} s", { count: Math.max(1, Math.round(seconds)) });
  return t("{count} min", { count: Math.round(seconds / 60) });
}
