import { INTENTS, PRESETS, SPEEDS } from "./presets.js";

/** @typedef {import("./api.js").Offer} Offer @typedef {import("./api.js").FieldOffer} FieldOffer */
/** @typedef {import("./presets.js").Intent} Intent @typedef {import("./presets.js").Speed} Speed */

const VARIATIONS = 4;
/** Fields that the page sets: results stay lossless until they are downloaded, and carry their settings. */
const FIXED = { output_format: "png", metadata: true, answer: "boxes" };
const MASK_FIELDS = ["mask_channel", "invert_mask", "resize_mask"]; // the page's own masks need none
/** Fields that the page fills in when it sends, or that are no setting of a painting. */
const SENT = ["output_format", "quality", "base64", "metadata", "answer", "extend", "lengths"];
const NOT_SETTINGS = new Set([...SENT, ...MASK_FIELDS]);
const NEAR = "near"; // the pace of drafts
const OF_SPEED = Object.values(SPEEDS).flatMap(({ values }) => Object.keys(values));

/**
 * Every field of a request that a person may set, within what the server offers. Emits "change".
 * Until the server's offer is known, values are kept as they are.
 */
export class Settings extends EventTarget {
  /** @type {Map<string, FieldOffer>} */
  fields = new Map();
  /** @type {Record<string, any>} */
  #values = { prompt: "", samples: VARIATIONS, seed: -1, pace: NEAR, ...PRESETS.replace.values };
  /** @type {Intent} */
  intent = "replace";
  seedLocked = false;
  /** Names whose values the server's defaults do not replace: set by a draft, a preset or a person. */
  #chosen = new Set(Object.keys(this.#values));

  /** @param {Offer} offer */
  adopt(offer) {
    this.fields = new Map(offer.fields.map((field) => [field.name, field]));
    for (const field of offer.fields) {
      const value = this.#chosen.has(field.name) ? this.#values[field.name] : field.default;
      this.#values[field.name] = fitted(field, value);
    }
    this.#emit();
  }

  /** The fields shown under "Advanced", in the server's order. @returns {FieldOffer[]} */
  get advanced() {
    const elsewhere = new Set(["model", "prompt", "samples", "seed", "pace", ...NOT_SETTINGS]);
    return [...this.fields.values()].filter((field) => !elsewhere.has(field.name));
  }

  /** @param {string} name */
  get(name) {
    return this.#values[name];
  }

  /** @param {string} name @param {any} value */
  set(name, value) {
    const field = this.fields.get(name);
    this.#values[name] = field ? fitted(field, value) : value;
    this.#chosen.add(name);
    this.#emit();
  }

  /** True if this server can paint drafts. */
  get canDraft() {
    return this.fields.get("pace")?.choices.includes(NEAR) ?? false;
  }

  /** Whether drafts are painted: nearly the exact pictures, in about half the time. */
  get drafts() {
    return this.#values.pace === NEAR;
  }

  set drafts(on) {
    this.set("pace", on ? NEAR : "exact");
  }

  /** @param {Intent} intent */
  choose(intent) {
    this.intent = intent;
    for (const [name, value] of Object.entries(PRESETS[intent].values)) {
      this.#values[name] = value;
      this.#chosen.add(name);
    }
    this.#emit();
  }

  /** The speed whose fields these are, or null after a person has set them otherwise. @returns {?Speed} */
  get speed() {
    const speeds = /** @type {Speed[]} */ (Object.keys(SPEEDS));
    return speeds.find((speed) => OF_SPEED.every((name) => this.#values[name] === this.#atSpeed(speed, name))) ?? null;
  }

  set speed(speed) {
    for (const name of OF_SPEED) {
      this.#values[name] = this.#atSpeed(speed ?? "normal", name);
      this.#chosen.add(name);
      if (speed === "normal") this.#chosen.delete(name);
    }
    this.#emit();
  }

  /** @param {Speed} speed @param {string} name of a field */
  #atSpeed(speed, name) {
    return SPEEDS[speed].values[name] ?? this.fields.get(name)?.default;
  }

  /** @param {boolean} locked */
  lockSeed(locked) {
    this.seedLocked = locked;
    this.#emit();
  }

  /**
   * Take over what a picture was painted with; what this server does not have is left out, and so is the pace, which
   * says how the person works.
   * @param {Record<string, any>} made
   */
  takeOver(made) {
    for (const [name, value] of Object.entries(made)) {
      const field = this.fields.get(name);
      if (!field || NOT_SETTINGS.has(name) || name === "pace") continue;
      this.#values[name] = fitted(field, value ?? field.default);
      this.#chosen.add(name);
    }
    this.seedLocked = "seed" in made;
    this.intent = nearest(this.#values, this.intent);
    this.#emit();
  }

  /** Return the values as the fields of a form. @returns {Map<string, string>} */
  toForm() {
    const form = new Map();
    const values = { ...this.#values, ...FIXED, seed: this.seedLocked ? this.#values.seed : -1 };
    for (const [name, value] of Object.entries(values)) {
      const text = textOf(value);
      if (this.fields.has(name) && name !== "extend" && text !== "") form.set(name, text);
    }
    form.set("prompt", this.#values.prompt);
    return form;
  }

  toJSON() {
    const chosen = Object.entries(this.#values).filter(([name]) => this.#chosen.has(name));
    return { values: Object.fromEntries(chosen), intent: this.intent, seedLocked: this.seedLocked };
  }

  /** @param {any} json what `toJSON` gave */
  restore({ values, intent, seedLocked }) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.fields.get(name);
      this.#values[name] = field ? fitted(field, value) : value;
      this.#chosen.add(name);
    }
    this.intent = intent in PRESETS ? intent : "replace";
    this.seedLocked = seedLocked === true;
    this.#emit();
  }

  #emit() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The nearest value that the server takes. @param {FieldOffer} field @param {any} value */
function fitted(field, value) {
  if (field.kind === "choice") return field.choices.includes(value) ? value : field.default;
  if (field.kind === "boolean") return value === true;
  if (field.kind !== "integer" && field.kind !== "number") return value;
  const number = Number(value);
  if (value === "" || value === null || !Number.isFinite(number)) return field.default;
  const inside = Math.min(Math.max(number, field.minimum ?? number), field.maximum ?? number);
  return field.kind === "integer" ? Math.round(inside) : inside;
}

/**
 * Write a value as a form field: lists with commas, a LoRA of a picture's metadata as `name:scale`.
 * @param {any} value @returns {string}
 */
export function textOf(value) {
  if (Array.isArray(value)) return value.map((one) => (Array.isArray(one) ? one.join(":") : textOf(one))).join(",");
  if (value !== null && typeof value === "object") return `${value.name}:${value.scale ?? 1}`;
  return String(value ?? "");
}

/**
 * The intent whose fields these are, or the one that was.
 * @param {Record<string, any>} values @param {Intent} current @returns {Intent}
 */
function nearest(values, current) {
  const found = INTENTS.filter((intent) =>
    Object.entries(PRESETS[intent].values).every(([name, value]) => values[name] === value),
  );
  return found.includes(current) || found.length === 0 ? current : found[0];
}
