import { byId, h, show } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./api.js").About} About @typedef {import("./app.js").App} App */

/** A picture, a place and a prompt of which the demo model makes something good with nearly every seed. */
const EXAMPLE = { path: "web/example.jpg", name: "portrait.jpg", prompt: "black sunglasses", x: 178, y: 86, width: 97, height: 37 };

const WORD = /\p{L}{2,}/gu;
const TAG = /<[^<>]*>/g;
const SMALL_WORDS = ["an", "and", "in", "of", "on", "one", "or", "some", "the", "with", "break"];
const MOST_SAID = 3;

/** What is above the prompt: what the model paints, if that is not everything, and what it does not know. */
export class AboutLine {
  #place = byId("about");
  #warning = h("strong", {});
  /** @type {?About} */
  #about = null;

  /** @param {import("./settings.js").Settings} settings */
  constructor(settings) {
    this.settings = settings;
    settings.addEventListener("change", () => this.#warn());
  }

  /** @param {About} about */
  offer(about) {
    if (JSON.stringify(about) === JSON.stringify(this.#about)) return; // an opened list stays open
    this.#about = about;
    show(this.#place, !about.photographs);
    this.#place.replaceChildren(h("p", {}, about.text), this.#warning, ...(about.things ? [this.#things(about.things)] : []));
    this.#warn();
  }

  /** What it paints, each a click away. @param {string[]} things */
  #things(things) {
    const choose = (/** @type {string} */ thing) => () => this.settings.set("prompt", thing);
    const buttons = things.map((thing) => h("button", { type: "button", class: "button", click: choose(thing) }, thing));
    return h("details", { "data-testid": "things" }, h("summary", {}, t("What it paints")), h("div", { class: "things" }, buttons));
  }

  #warn() {
    if (!this.#about) return;
    const unknown = unknownWords(this.#about, this.settings.get("prompt") ?? "").slice(0, MOST_SAID);
    this.#warning.textContent = unknown.length ? t("It does not know “{words}”.", { words: unknown.join(", ") }) : "";
  }
}

/**
 * The words of a prompt that the model does not know, as `doubts` in inpaint/about.py has them.
 * @param {About} about @param {string} prompt
 */
export function unknownWords({ words: known }, prompt) {
  if (!known) return [];
  const words = prompt.replace(TAG, " ").toLowerCase().match(WORD) ?? [];
  return [...new Set(words)].filter((word) => !known.includes(word) && !SMALL_WORDS.includes(word));
}

/** Open the example with its mask and prompt, so that a click on Paint paints it. @param {App} app */
export async function openExample(app) {
  const { settings, editor } = app;
  const answer = await fetch(EXAMPLE.path);
  if (!settings.get("prompt")) settings.set("prompt", EXAMPLE.prompt);
  const blob = await answer.blob();
  await app.working.open(blob, EXAMPLE.name);
  if (editor.picture?.blob === blob) await editor.loadMask(await exampleMask(editor.picture));
}

/** A white box on black, with round corners. @param {{width: number, height: number}} picture @returns {Promise<Blob>} */
function exampleMask({ width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#fff";
  context.roundRect(EXAMPLE.x, EXAMPLE.y, EXAMPLE.width, EXAMPLE.height, 12);
  context.fill();
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(t("The browser made no mask.")))));
  });
}
