/**
 * The page's texts in the reader's language. As in gettext, the English sentence is the key: code reads as it is
 * shown, and a sentence without a translation is shown in English.
 * @type {Record<string, string>}
 */
const words = {};

/**
 * Translate a text.
 * @param {string} text in English, with `{name}` where a value goes; always a literal, so that a test finds it
 * @param {Record<string, string|number>} [values] by name
 */
export function t(text, values = {}) {
  return (words[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
