import { byId, h } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

/** @typedef {{name: string, prompt: string}} Saved */

const STORED = "inpaint-prompts";
const MOST = 100; // recent ones

/** The prompts of this browser: those painted last, and those that were saved, with or without a name. */
export class Prompts {
  #field = byId("prompt");
  #menu = byId("prompts-menu");
  #name = byId("prompt-name");
  /** The place in the list while the arrow keys walk through it; −1: what the person wrote. */
  #at = -1;

  /** @param {import("./settings.js").Settings} settings */
  constructor(settings) {
    this.settings = settings;
    this.#field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    this.#field.addEventListener("input", () => (this.#at = -1));
    byId("save-prompt").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#save();
    });
    this.#menu.addEventListener("toggle", (/** @type {ToggleEvent} */ event) => {
      if (event.newState === "open") this.#show();
    });
  }

  /** Put the prompt in front of the recent ones: it is being painted. */
  remember() {
    const prompt = this.settings.get("prompt").trim();
    const stored = read();
    if (prompt) write({ ...stored, recent: [prompt, ...stored.recent.filter((one) => one !== prompt)].slice(0, MOST) });
    this.#at = -1;
  }

  /** Walk through the recent prompts, from an empty field. @param {KeyboardEvent} event */
  #key(event) {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key] ?? 0;
    const walks = this.#field.value === "" || this.#at >= 0;
    if (by === 0 || !walks || event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
    const { recent } = read();
    const at = Math.max(-1, Math.min(this.#at + by, recent.length - 1));
    if (at === this.#at) return;
    event.preventDefault();
    this.settings.set("prompt", recent[at] ?? "");
    this.#at = at;
  }

  #save() {
    const prompt = this.settings.get("prompt").trim();
    if (!prompt) return;
    const stored = read();
    const others = stored.saved.filter((one) => one.prompt !== prompt);
    write({ ...stored, saved: [{ name: this.#name.value.trim(), prompt }, ...others] });
    this.#name.value = "";
    this.#show();
  }

  #show() {
    const { saved, recent } = read();
    const lists = [
      this.#list(t("Saved prompts"), saved, (prompt) => {
        write({ ...read(), saved: read().saved.filter((one) => one.prompt !== prompt) });
      }),
      this.#list(t("Recent prompts"), recent.map((prompt) => ({ name: "", prompt })), (prompt) => {
        write({ ...read(), recent: read().recent.filter((one) => one !== prompt) });
      }),
    ];
    const none = h("p", { class: "muted" }, t("Prompts that you paint with are listed here."));
    const shown = lists.filter((list) => list !== null);
    byId("prompts").replaceChildren(...(shown.length ? shown : [none]));
    byId("prompt-save").disabled = !this.settings.get("prompt").trim();
    const { left, bottom, width } = this.#field.getBoundingClientRect();
    this.#menu.style.width = `${Math.max(280, width)}px`;
    this.#menu.style.left = `${Math.max(8, Math.min(left, innerWidth - this.#menu.offsetWidth - 8))}px`;
    this.#menu.style.top = `${Math.max(8, Math.min(bottom + 4, innerHeight - this.#menu.offsetHeight - 8))}px`;
  }

  /** @param {string} title @param {Saved[]} prompts @param {(prompt: string) => void} forget */
  #list(title, prompts, forget) {
    if (prompts.length === 0) return null;
    const items = prompts.map(({ name, prompt }) => {
      const use = h("button", { type: "button", class: "button", dir: "auto", title: prompt }, name || prompt);
      use.addEventListener("click", () => this.#use(prompt));
      const label = t("Remove from the list: {prompt}", { prompt: name || prompt });
      const away = h("button", { type: "button", class: "icon-button", "aria-label": label }, icon("close"));
      away.addEventListener("click", () => {
        forget(prompt);
        this.#show();
      });
      return h("li", {}, use, away);
    });
    return h("section", { "aria-label": title }, h("h3", {}, title), h("ul", {}, items));
  }

  /** @param {string} prompt */
  #use(prompt) {
    this.settings.set("prompt", prompt);
    this.#menu.hidePopover();
    this.#field.focus();
  }
}

/** @returns {{recent: string[], saved: Saved[]}} */
function read() {
  try {
    const { recent, saved } = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return { recent: Array.isArray(recent) ? recent : [], saved: Array.isArray(saved) ? saved : [] };
  } catch {
    return { recent: [], saved: [] };
  }
}

/** @param {{recent: string[], saved: Saved[]}} prompts */
function write(prompts) {
  try {
    localStorage.setItem(STORED, JSON.stringify(prompts));
  } catch {
    // A browser that keeps nothing has no history either.
  }
}
