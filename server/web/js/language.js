import { h } from "./dom.js";
import { chooseLanguage, language, LANGUAGES, t } from "./i18n.js";

/** A choice of the page's language, at the end of a part of it. @param {HTMLElement} place */
export function offerLanguages(place) {
  const options = Object.entries(LANGUAGES).map(([value, name]) => h("option", { value, lang: value }, name));
  const select = h("select", { id: "language", "data-testid": "language" }, options);
  select.value = language;
  select.addEventListener("change", () => chooseLanguage(select.value));
  place.append(h("p", { class: "language muted" }, h("label", { for: "language" }, t("Language")), select));
}
