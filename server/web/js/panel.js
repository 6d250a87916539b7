import { byId, h, set, show } from "./dom.js";
import { controlFor } from "./fields.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { offerLanguages } from "./language.js";
import { INTENTS, PRESETS, SPEEDS } from "./presets.js";

/** @typedef {import("./settings.js").Settings} Settings @typedef {import("./editor/editor.js").Editor} Editor */

/** @type {Record<keyof import("./editor/rect.js").Rect, string>} */
const SIDES = { left: t("Left"), top: t("Top"), right: t("Right"), bottom: t("Bottom") };
const NEGATIVE = "negative_prompt"; // next to the prompt, not under Advanced
const CUSTOM = "custom"; // shown where sampler and steps are those of no speed

/** The panel at the right: intent, prompt, seed and every other setting. */
export class Panel {
  /** @type {[string, import("./fields.js").Control][]} */
  #controls = [];
  #intents = new Map();
  #prompt = byId("prompt");
  #seed = byId("seed");
  #samples = byId("samples");
  #speed = byId("speed");
  #lock = byId("lock-seed");
  #drafts = byId("drafts");
  /** @type {Map<keyof import("./editor/rect.js").Rect, HTMLInputElement>} */
  #sides = new Map();

  /** @param {Settings} settings @param {Editor} editor */
  constructor(settings, editor) {
    this.settings = settings;
    this.editor = editor;
    this.#build();
    settings.addEventListener("change", () => this.#show());
    editor.addEventListener("change", () => this.#showExtension());
    this.#show();
  }

  /** Make the controls for the server's fields. @param {import("./api.js").Offer} offer */
  offer(offer) {
    this.#controls = this.settings.advanced.flatMap((field) => {
      const control = controlFor(field, this.settings, offer.loras);
      return control ? [[field.name, control]] : [];
    });
    for (const [place, isHere] of /** @type {[string, (name: string) => boolean][]} */ ([
      ["negative", (name) => name === NEGATIVE],
      ["fields", (name) => name !== NEGATIVE],
    ])) {
      const here = this.#controls.filter(([name]) => isHere(name));
      byId(place).replaceChildren(...here.map(([, { element }]) => element));
    }
    this.#show();
  }

  /** Put the focus into the prompt, where it is missing. */
  focusPrompt() {
    this.#prompt.focus();
  }

  #build() {
    for (const intent of INTENTS) {
      const { label } = PRESETS[intent];
      const input = h("input", { type: "radio", name: "intent", value: intent, "data-testid": `intent-${intent}` });
      input.addEventListener("change", () => this.settings.choose(intent));
      this.#intents.set(intent, input);
      byId("intents").append(h("label", {}, input, h("span", {}, label)));
    }
    this.#prompt.addEventListener("input", () => this.settings.set("prompt", this.#prompt.value));
    this.#samples.addEventListener("change", () => this.settings.set("samples", this.#samples.value));
    for (const [value, { label, hint }] of Object.entries(SPEEDS)) {
      this.#speed.append(h("option", { value, title: hint }, label));
    }
    this.#speed.append(h("option", { value: CUSTOM, hidden: true }, t("Custom")));
    this.#speed.addEventListener("change", () => (this.settings.speed = this.#speed.value));
    this.#seed.addEventListener("change", () => {
      this.settings.set("seed", this.#seed.value === "" ? -1 : this.#seed.value);
      this.settings.lockSeed(this.#seed.value !== "" && Number(this.#seed.value) >= 0);
    });
    this.#lock.addEventListener("click", () => this.settings.lockSeed(!this.settings.seedLocked));
    this.#drafts.addEventListener("change", () => (this.settings.drafts = this.#drafts.checked));
    this.#buildExtension();
    offerLanguages(byId("panel"));
  }

  #buildExtension() {
    for (const side of /** @type {(keyof typeof SIDES)[]} */ (Object.keys(SIDES))) {
      const id = `extend-${side}-px`; // the handles on the picture are the other way
      const input = h("input", { type: "number", id, min: 0, step: 8, value: 0, "data-testid": id });
      input.addEventListener("change", () => (this.editor.extend = { ...this.editor.extend, [side]: input.value }));
      this.#sides.set(side, input);
      byId("extension").append(h("label", { for: id }, SIDES[side], input));
    }
  }

  #show() {
    const { settings } = this;
    const { hint, placeholder } = PRESETS[settings.intent];
    this.#intents.get(settings.intent).checked = true;
    byId("intent-hint").textContent = hint;
    set(this.#prompt, "placeholder", placeholder);
    if (this.#prompt.value !== settings.get("prompt")) this.#prompt.value = settings.get("prompt");
    this.#samples.value = String(settings.get("samples"));
    this.#drafts.checked = settings.drafts;
    show(byId("drafts-field"), settings.canDraft);
    this.#speed.value = settings.speed ?? CUSTOM;
    set(this.#speed, "title", settings.speed ? SPEEDS[settings.speed].hint : t("As set under Advanced."));
    const seed = Number(settings.get("seed"));
    this.#seed.value = seed >= 0 ? String(seed) : "";
    set(this.#lock, "aria-pressed", String(settings.seedLocked));
    this.#lock.replaceChildren(icon(settings.seedLocked ? "lock" : "unlock"));
    for (const [name, control] of this.#controls) control.show(settings.get(name));
    show(byId("extension"), settings.intent === "extend");
    this.editor.extending = settings.intent === "extend";
  }

  #showExtension() {
    for (const [side, input] of this.#sides) input.value = String(this.editor.extend[side]);
  }
}
