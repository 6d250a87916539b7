import { h, set } from "./dom.js";
import { t } from "./i18n.js";
import { textOf } from "./settings.js";

/** @typedef {import("./api.js").FieldOffer} FieldOffer @typedef {import("./settings.js").Settings} Settings */
/** @typedef {{element: HTMLElement, show: (value: any) => void}} Control */

// Names that say more than the field's own; others are made from it, so that a new field needs nothing here.
/** @type {Record<string, string>} */
const LABELS = {
  negative_prompt: t("Negative prompt"),
  strength: t("Strength"),
  scheduler: t("Scheduler"),
  num_inference_steps: t("Steps"),
  guidance_scale: t("Guidance"),
  guidance_rescale: t("Guidance rescale"),
  guidance_interval: t("Guidance from, to"),
  area: t("Area"),
  padding: t("Padding"),
  grow: t("Grow"),
  feather: t("Feather"),
  fill: t("Fill"),
  color_match: t("Fit colours to the surroundings"),
  soft: t("Soft: grey is strength"),
  loras: t("LoRAs"),
};
/** @type {Record<string, string>} */
const WORDS = {
  padding: t("px around the mask that the model sees"),
  grow: t("px added around the mask"),
  feather: t("px of blend"),
};
const FLOAT_STEPS = 100; // a slider's stops
const FEW_LORAS = 6; // more are searched

/** The label of a field. @param {string} name */
function labelOf(name) {
  const plain = name.replaceAll("_", " ");
  return LABELS[name] ?? plain.charAt(0).toUpperCase() + plain.slice(1);
}

/**
 * A control for one field of a request, by the kind that the server gives for it.
 * @param {FieldOffer} field @param {Settings} settings @param {string[]} loras that the server has
 * @returns {?Control} null where there is nothing to choose
 */
export function controlFor(field, settings, loras) {
  if (field.name === "loras") return loras.length > 0 ? loraControl(field, settings, loras) : null;
  if (field.kind === "boolean") return checkbox(field, settings);
  if (field.kind === "choice") return choice(field, settings);
  if (field.kind === "integer" || field.kind === "number") return number(field, settings);
  if (field.kind === "list") return list(field, settings);
  return text(field, settings);
}

/** @param {FieldOffer} field */
const idOf = (field) => `field-${field.name}`;

/** @param {FieldOffer} field @param {HTMLElement} control @param {HTMLElement[]} extra before the control */
function labelled(field, control, extra = []) {
  const hint = field.description || WORDS[field.name];
  return h(
    "div",
    { class: "field", title: hint },
    h("label", { for: idOf(field) }, labelOf(field.name)),
    ...extra,
    control,
  );
}

/** @param {FieldOffer} field @param {Settings} settings @returns {Control} */
function checkbox(field, settings) {
  const input = h("input", { type: "checkbox", id: idOf(field), "data-testid": idOf(field) });
  input.addEventListener("change", () => settings.set(field.name, input.checked));
  const words = h("label", { for: idOf(field) }, labelOf(field.name));
  const element = h("div", { class: "field is-check", title: field.description }, input, words);
  return { element, show: (value) => (input.checked = value === true) };
}

/** @param {FieldOffer} field @param {Settings} settings @returns {Control} */
function choice(field, settings) {
  const options = field.choices.map((value) => h("option", { value }, value));
  const input = h("select", { id: idOf(field), "data-testid": idOf(field) }, options);
  input.addEventListener("change", () => settings.set(field.name, input.value));
  return { element: labelled(field, input), show: (value) => (input.value = value) };
}

/**
 * A slider and a number next to it: the one to feel, the other to be exact.
 * @param {FieldOffer} field @param {Settings} settings @returns {Control}
 */
function number(field, settings) {
  const { minimum: min, maximum: max } = field;
  const whole = field.kind === "integer";
  const step = whole ? 1 : (Number(max) - Number(min)) / FLOAT_STEPS;
  const common = { min, max, "data-testid": idOf(field) };
  const exact = h("input", { type: "number", id: idOf(field), ...common, step: whole ? 1 : "any" });
  const slider = h("input", { type: "range", min, max, step: whole ? 1 : Number(step.toPrecision(2)) });
  set(slider, "aria-label", t("{label}, slider", { label: labelOf(field.name) }));
  slider.addEventListener("input", () => settings.set(field.name, slider.value));
  exact.addEventListener("change", () => settings.set(field.name, exact.value));
  /** @param {any} value */
  const show = (value) => {
    slider.value = exact.value = String(Number(Number(value).toPrecision(6)));
  };
  return { element: h("div", { class: "is-number" }, labelled(field, slider, [exact])), show };
}

/** @param {FieldOffer} field @param {Settings} settings @returns {Control} */
function text(field, settings) {
  const input = h("textarea", { id: idOf(field), rows: 1, dir: "auto", "data-testid": idOf(field) });
  input.addEventListener("input", () => settings.set(field.name, input.value || field.default));
  return { element: labelled(field, input), show: (value) => showText(input, value ?? "") };
}

/**
 * Several values, as a form has them: with commas between.
 * @param {FieldOffer} field @param {Settings} settings @returns {Control}
 */
function list(field, settings) {
  const input = h("input", { type: "text", id: idOf(field), "data-testid": idOf(field), autocomplete: "off" });
  input.addEventListener("change", () => settings.set(field.name, input.value || field.default));
  return { element: labelled(field, input), show: (value) => showText(input, textOf(value)) };
}

/** @param {FieldOffer} field @param {Settings} settings @param {string[]} names @returns {Control} */
function loraControl(field, settings, names) {
  const rows = names.map((name) => {
    const scale = h("input", { type: "number", min: -4, max: 4, step: 0.05, value: 0 });
    set(scale, "aria-label", t("Strength of {name}", { name }));
    set(scale, "data-testid", `lora-${name}`);
    scale.addEventListener("change", () => settings.set(field.name, written()));
    return { name, scale, element: h("div", { class: "lora" }, h("span", { title: name }, name), scale) };
  });
  const written = () =>
    rows
      .filter(({ scale }) => Number(scale.value) !== 0)
      .map(({ name, scale }) => `${name}:${Number(scale.value)}`)
      .join(",");
  const label = t("Search LoRAs");
  const search = h("input", { type: "search", "data-testid": "lora-search", "aria-label": label, placeholder: label });
  /** Of many, show those that are looked for or in use. */
  const narrow = () => {
    const sought = search.value.trim().toLowerCase();
    for (const { name, scale, element } of rows) {
      const found = sought !== "" && name.toLowerCase().includes(sought);
      element.hidden = names.length > FEW_LORAS && !found && Number(scale.value) === 0;
    }
  };
  search.addEventListener("input", narrow);
  /** @param {any} value */
  const show = (value) => {
    const uses = usesOf(value);
    for (const { name, scale } of rows) scale.value = String(uses.get(name) ?? 0);
    narrow();
  };
  const legend = h("legend", {}, labelOf(field.name));
  const found = names.length > FEW_LORAS && search;
  const element = h("fieldset", { class: "field" }, legend, found, ...rows.map((row) => row.element));
  return { element, show };
}

/** @param {any} value in any of its notations @returns {Map<string, number>} */
function usesOf(value) {
  const parts = textOf(value).split(",").filter(Boolean);
  return new Map(parts.map((part) => [part.split(":")[0].trim(), Number(part.split(":")[1] ?? 1)]));
}

/**
 * Only where the text differs: while it is being typed, the caret would jump.
 * @param {HTMLInputElement|HTMLTextAreaElement} input @param {string} value
 */
function showText(input, value) {
  if (input.value !== value) input.value = value;
}
