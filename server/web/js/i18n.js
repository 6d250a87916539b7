/** The languages of the page, by their own names; all but English have a catalogue in `words/`. */
export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español", fr: "Français", ja: "日本語", zh: "中文" };
/** @typedef {keyof typeof LANGUAGES} Language */

const STORED = "inpaint-language";
const ATTRIBUTES = ["title", "aria-label", "placeholder"];
const UNTRANSLATED = "code, [translate=no]";

/** The language of the page: the one that was chosen here, else the browser's first one that is there. */
export const language = chosen();

/**
 * The page's texts in the reader's language. As in gettext, the English sentence is the key: code reads as it is
 * shown, and a sentence without a translation is shown in English. Awaited here, so that every module that imports
 * this one finds its words.
 * @type {Record<string, string>}
 */
const words = language === "en" ? {} : await catalogue(language);
const numbers = new Intl.NumberFormat(language, { useGrouping: false, maximumFractionDigits: 20 });

/**
 * Translate a text.
 * @param {string} text in English, with `{name}` where a value goes; always a literal, so that a test finds it
 * @param {Record<string, string|number>} [values] by name; numbers get the language's decimal sign
 */
export function t(text, values = {}) {
  return (words[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

/** @param {string|number} value */
const shown = (value) => (typeof value === "number" ? numbers.format(value) : String(value));

/** Translate the texts and labels of the page's skeleton, which index.html has in English. */
export function translatePage() {
  document.documentElement.lang = language;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const text = (node.nodeValue ?? "").trim();
    if (!words[text] || node.parentElement?.closest(UNTRANSLATED)) continue;
    node.nodeValue = (node.nodeValue ?? "").replace(text, () => words[text]);
  }
  for (const name of ATTRIBUTES) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      const text = element.getAttribute(name) ?? "";
      if (words[text] && !element.closest(UNTRANSLATED)) element.setAttribute(name, words[text]);
    }
  }
}

/** Change the language, for this browser. @param {string} name */
export function chooseLanguage(name) {
  try {
    localStorage.setItem(STORED, name);
  } catch {
    return; // a browser that keeps nothing goes on in its own language
  }
  location.reload();
}

/** @returns {Language} */
function chosen() {
  const wanted = [...remembered(), ...navigator.languages.map((tag) => tag.split("-")[0].toLowerCase())];
  return /** @type {Language} */ (wanted.find((name) => name in LANGUAGES) ?? "en");
}

function remembered() {
  try {
    return [localStorage.getItem(STORED) ?? ""];
  } catch {
    return [];
  }
}

/** @param {Language} name @returns {Promise<Record<string, string>>} */
async function catalogue(name) {
  try {
    return (await import(`./words/${name}.js`)).default;
  } catch {
    return {}; // English is better than no page
  }
}
