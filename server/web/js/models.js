import { byId, h, show } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./api.js").Offer} Offer @typedef {import("./settings.js").Settings} Settings */

const FIELD = "model";

/** Which model paints: a choice above the prompt where the server has several, and nothing where it has one. */
export class ModelChoice {
  #select = h("select", { id: FIELD, "data-testid": FIELD });
  #field = h("div", { class: "field", hidden: true }, h("label", { for: FIELD }, t("Model")), this.#select);

  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    byId("prompt").closest(".field")?.before(this.#field);
    this.#select.addEventListener("change", () => settings.set(FIELD, this.#select.value));
    settings.addEventListener("change", () => this.#show());
  }

  /** @param {Offer} offer */
  offer({ models }) {
    const options = models.map(({ name, ready }) => {
      return h("option", { value: name }, ready ? name : t("{model}: being loaded", { model: name }));
    });
    this.#select.replaceChildren(...options);
    this.#show();
  }

  #show() {
    show(this.#field, this.settings.fields.has(FIELD));
    this.#select.value = this.settings.get(FIELD) ?? "";
  }
}

/**
 * What a server says of the model that is chosen, or of its first.
 * @param {Offer} offer @param {unknown} name
 */
export function modelOf(offer, name) {
  return offer.models.find((model) => model.name === name) ?? offer.models[0];
}
