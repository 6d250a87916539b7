import { byId, h, show } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./api.js").About} About @typedef {import("./app.js").App} App */

/** A picture, a place and a prompt of which the demo model makes something good with each of six seeds. */
const EXAMPLE = { path: "web/example.jpg", name: "portrait.jpg", prompt: "a big blue circle", x: 171, y: 384, radius: 46 };

const WORD = /\p{L}{2,}/gu;
const TAG = /<[^<>]*>/g;
const SMALL_WORDS = ["an", "and", "in", "of", "on", "one", "or", "some", "the", "with", "break"];
const MOST_SAID = 3;

/** The line above the prompt: what the model paints, if that is not everything, and what it does not know. */
export class AboutLine {
  #line = byId("about");
  /** @type {?About} */
  #about = null;

  /** @param {import("./settings.js").Settings} settings */
  constructor(settings) {
    this.settings = settings;
    settings.addEventListener("change", () => this.#show());
  }

  /** @param {About} about */
  offer(about) {
    this.#about = about;
    this.#show();
  }

  #show() {
    const about = this.#about;
    show(this.#line, about !== null && !about.photographs);
    if (!about) return;
    const unknown = unknownWords(about, this.settings.get("prompt") ?? "").slice(0, MOST_SAID);
    const warning = unknown.length ? t("It does not know “{words}”.", { words: unknown.join(", ") }) : "";
    this.#line.replaceChildren(about.text, ...(warning ? [h("strong", {}, warning)] : []));
  }
}

/**
 * The words of a prompt that the model does not know, as `doubts` in inpaint/about.py has them.
 * @param {About} about @param {string} prompt
 */
export function unknownWords({ things }, prompt) {
  if (!things) return [];
  const words = prompt.replace(TAG, " ").toLowerCase().match(WORD) ?? [];
  return [...new Set(words)].filter((word) => !things.includes(word) && !SMALL_WORDS.includes(word));
}

/** Open the example with its mask and prompt, so that a click on Paint paints it. @param {App} app */
export async function openExample(app) {
  const { settings, editor } = app;
  const answer = await fetch(EXAMPLE.path);
  if (!settings.get("prompt")) settings.set("prompt", EXAMPLE.prompt);
  const blob = await answer.blob();
  await app.working.open(blob, EXAMPLE.name);
  if (editor.picture?.blob === blob) await editor.loadMask(await roundMask(editor.picture));
}

/** A white disc on black. @param {{width: number, height: number}} picture @returns {Promise<Blob>} */
function roundMask({ width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#fff";
  context.arc(EXAMPLE.x, EXAMPLE.y, EXAMPLE.radius, 0, 2 * Math.PI);
  context.fill();
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(t("The browser made no mask.")))));
  });
}
