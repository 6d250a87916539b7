import { byId, h, set, show } from "./dom.js";
import { Enlarging } from "./enlarging.js";
import { icon } from "./icons.js";
import { t } from "./i18n.js";
import { noteOf } from "./refining.js";

/** @typedef {import("./results.js").Result} Result @typedef {import("./results.js").Results} Results */
/**
 * What can be done with a result.
 * @typedef {{keep: (r: Result) => void, discard: (r: Result) => void, download: (r: Result) => void,
 *   lockSeed: (r: Result) => void, takeOver: (r: Result) => void, select: (r: ?Result) => void}} Actions
 */

/** The type of a dragged thumbnail, which carries its id; dropped on the picture, the result is kept. */
export const DRAG_TYPE = "application/x-inpaint-result";

/** @type {[Exclude<keyof Actions, "select">, string, import("./icons.js").Icon, string][]} */
const ACTIONS = [
  ["keep", t("Keep"), "check", t("Make it the working picture")],
  ["discard", t("Discard"), "clear", t("Take it away")],
  ["lockSeed", t("Lock seed"), "lock", t("Paint with its seed from now on")],
  ["takeOver", t("Use settings"), "settings", t("Paint with its prompt and settings")],
  ["download", t("Download"), "download", t("In the format of the picture it was painted on")],
];

/** The arrow keys, and how far each goes in the strip. @type {Record<string, number>} */
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** The strip of results below the picture: the newest variations first, then what came before. */
export class Film {
  /** @type {?Result} */
  selected = null;
  /** The result that is spoken of while none is selected, by its id. @type {?string} */
  #told = null;
  /** @type {HTMLUListElement} */
  #list = byId("results");
  /** Object URLs of thumbnails, by the result's id. @type {Map<string, string>} */
  #urls = new Map();
  /** What the selected result was painted with. */
  #made = h("p", { id: "result-made", class: "muted", dir: "auto", "data-testid": "result-made" });
  #enlarging;

  /** @param {Results} results @param {Actions} actions */
  constructor(results, actions) {
    this.results = results;
    this.actions = actions;
    this.#buildActions(byId("result-actions"));
    byId("result-note").after(this.#made);
    this.#enlarging = new Enlarging(this.#list, (id) => this.#picture(id));
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    results.addEventListener("change", () => this.#show());
    this.#show();
  }

  /** @param {?Result} result */
  select(result) {
    if (result?.id === this.selected?.id) return;
    this.selected = result;
    this.#mark();
    this.actions.select(result);
  }

  /** Select the next result, or the one before. @param {number} by */
  step(by) {
    const all = this.results.all;
    if (all.length === 0) return;
    const at = all.findIndex(({ id }) => id === this.selected?.id);
    const next = all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)];
    this.select(next);
    this.#button(next)?.focus();
  }

  /** Say what is known of a result while none is selected. @param {Result} result */
  tell(result) {
    this.#told = result.id;
    this.#mark();
  }

  /** @param {Result} result @returns {?HTMLElement} */
  #button(result) {
    return this.#list.querySelector(`[data-id="${result.id}"]`);
  }

  /** @param {HTMLElement} place */
  #buildActions(place) {
    for (const [name, label, picture, title] of ACTIONS) {
      const run = () => this.selected && this.actions[name](this.selected);
      const attributes = { type: "button", class: "button", title, "data-testid": `result-${name}`, click: run };
      place.append(h("button", attributes, icon(picture), h("span", {}, label)));
    }
  }

  #show() {
    const { all } = this.results;
    const chosen = this.selected;
    const now = all.find(({ id }) => id === chosen?.id);
    if (now) this.selected = now;
    else this.select(null);
    const focused = document.activeElement?.closest(".result")?.getAttribute("data-id");
    const shown = /** @type {HTMLElement[]} */ ([...this.#list.children]);
    const known = new Map(shown.map((item) => [item.dataset.result ?? "", item]));
    const items = all.map((result, index) => {
      const old = known.get(result.id);
      const item = old?.dataset.path === result.path ? old : this.#newItem(result);
      item.classList.toggle("begins-batch", index > 0 && all[index - 1].batch !== result.batch);
      known.delete(result.id);
      return item;
    });
    for (const id of known.keys()) this.#forget(id);
    this.#enlarging.hide();
    this.#list.replaceChildren(...items);
    show(byId("film"), all.length > 0);
    this.#mark();
    /** @type {?HTMLElement} */ (focused && this.#list.querySelector(`[data-id="${focused}"]`))?.focus();
  }

  /** @param {Result} result */
  #newItem(result) {
    this.#forget(result.id); // its draft's thumbnail
    const url = URL.createObjectURL(result.thumbnail);
    this.#urls.set(result.id, url);
    const model = result.settings.model ? `, ${result.settings.model}` : "";
    const { number = "" } = result;
    const kind = result.draft ? t("Draft {number}", { number }) : t("Result {number}", { number });
    const prompt = String(result.settings.prompt || t("no prompt"));
    const about = t("{kind}, seed {seed}, {prompt}", { kind: kind.trim(), seed: result.seed, prompt });
    const label = `${about}${model}`;
    const image = h("img", { src: url, alt: "", draggable: "false" });
    const attributes = { type: "button", class: "result", draggable: "true", title: label, "aria-label": label };
    const seed = h("span", { class: "seed" }, String(result.seed));
    const marks = { "data-id": result.id, "data-testid": "result", "data-draft": result.draft, "data-number": number };
    const word = result.draft && t("draft"); // shown on the thumbnail
    const button = h("button", { ...attributes, ...marks, "data-word": word }, image, seed);
    button.addEventListener("click", () => this.select(this.selected?.id === result.id ? null : result));
    button.addEventListener("dragstart", (event) => event.dataTransfer?.setData(DRAG_TYPE, result.id));
    return h("li", { "data-result": result.id, "data-path": result.path }, button);
  }

  /** @param {string} id of a result */
  #forget(id) {
    URL.revokeObjectURL(this.#urls.get(id) ?? "");
    this.#urls.delete(id);
  }

  /** Mark the selected result; one is in the tab order, the arrow keys reach the others. */
  #mark() {
    const buttons = /** @type {HTMLElement[]} */ ([...this.#list.querySelectorAll(".result")]);
    for (const [index, button] of buttons.entries()) {
      const chosen = button.dataset.id === this.selected?.id;
      set(button, "aria-pressed", String(chosen));
      button.tabIndex = chosen || (!this.selected && index === 0) ? 0 : -1;
      if (chosen) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    show(byId("result-actions"), this.selected !== null);
    // The text stays: the picture above must not jump with every choice.
    const { selected } = this;
    const none = t("Choose a result to keep or compare it.");
    const title = selected ? t("Seed {seed}", { seed: selected.seed }) : none;
    byId("result-title").textContent = title;
    byId("result-note").textContent = this.#note();
    this.#made.textContent = this.selected ? madeWith(this.selected) : "";
  }

  /** The painted part of a result. @param {string} id @returns {Promise<Blob>} */
  async #picture(id) {
    const result = this.results.all.find((one) => one.id === id);
    if (!result) throw new Error("There is no such result.");
    return this.results.patch(result);
  }

  #note() {
    if (this.selected) return noteOf(this.selected);
    const told = this.results.all.find(({ id }) => id === this.#told);
    return told ? t("Seed {seed}: {note}", { seed: told.seed, note: noteOf(told) }) : "";
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const by = STEPS[event.key];
    if (by) {
      event.preventDefault();
      this.step(by);
    } else if (event.key === "Delete" && this.selected) {
      event.preventDefault();
      this.actions.discard(this.selected);
    }
  }
}

/** A result's prompt and main settings, in a line. @param {Result} result */
function madeWith({ settings }) {
  const { prompt, num_inference_steps: steps, guidance_scale: guidance, strength, scheduler } = settings;
  const parts = [
    prompt ? `“${prompt}”` : t("No prompt"),
    steps !== undefined && t("{steps} steps", { steps: String(steps) }),
    scheduler,
    guidance !== undefined && t("guidance {guidance}", { guidance: String(guidance) }),
    strength !== undefined && t("strength {strength}", { strength: String(strength) }),
    settings.model,
  ];
  return parts.filter(Boolean).join(" · ");
}
