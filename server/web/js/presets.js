import { t } from "./i18n.js";

/**
 * What a person wants to do, instead of knobs: the fields of a request that each intent sets.
 * @typedef {"replace"|"remove"|"add"|"refine"|"extend"} Intent
 * @typedef {object} Preset
 * @property {string} label
 * @property {string} hint what it is for
 * @property {string} placeholder of the prompt
 * @property {boolean} needsPrompt
 * @property {Record<string, unknown>} values
 */

/** @type {Record<Intent, Preset>} */
export const PRESETS = {
  replace: {
    label: t("Replace"),
    hint: t("Something else in place of what is marked."),
    placeholder: t("What should be there?"),
    needsPrompt: true,
    values: { strength: 0.9, fill: "original", soft: false },
  },
  remove: {
    label: t("Remove"),
    hint: t("What is marked disappears into its surroundings."),
    placeholder: t("What is behind it? May stay empty."),
    needsPrompt: false,
    values: { strength: 0.99, fill: "telea", soft: false },
  },
  add: {
    label: t("Add"),
    hint: t("Something new, blended in softly: grey strokes keep more of the picture."),
    placeholder: t("What should be added?"),
    needsPrompt: true,
    values: { strength: 0.99, fill: "original", soft: true },
  },
  refine: {
    label: t("Refine"),
    hint: t("The same again, better: shapes stay, details are new."),
    placeholder: t("What is it? May stay empty."),
    needsPrompt: false,
    values: { strength: 0.45, fill: "original", soft: false },
  },
  extend: {
    label: t("Extend"),
    hint: t("Drag the picture's edges outwards, or type how far."),
    placeholder: t("What lies beyond the edge? May stay empty."),
    needsPrompt: false,
    values: { strength: 0.99, fill: "original", soft: false },
  },
};

/**
 * How many calls of the model a picture may take: the fields that each speed sets. The server's defaults are
 * "normal"; docs/benchmarks.md has the table that "fast" was chosen from.
 * @typedef {"normal"|"fast"} Speed
 * @type {Record<Speed, {label: string, hint: string, values: Record<string, unknown>}>}
 */
export const SPEEDS = {
  normal: { label: t("Normal"), hint: t("The server's own sampler and steps."), values: {} },
  fast: {
    label: t("Fast"),
    hint: t("Less than half the work, nearly as good."),
    values: { scheduler: "DPM Multi Karras", num_inference_steps: 20 },
  },
};

export const INTENTS = /** @type {Intent[]} */ (Object.keys(PRESETS));
