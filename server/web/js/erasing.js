import { byId, set, show } from "./dom.js";
import { t } from "./i18n.js";

/**
 * The Erase button: what is marked is filled from its surroundings, without a prompt or a model. The picture changes
 * in one step, which undo takes back.
 */
export class Erasing {
  #button = byId("erase");
  #running = false;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
    this.#button.addEventListener("click", () => this.erase());
  }

  /** Show the button where the server can erase. @param {import("./api.js").Offer} offer */
  offer({ fields }) {
    const fill = fields.find(({ name }) => name === "fill");
    show(this.#button, fill?.choices.includes("patch") ?? false);
  }

  async erase() {
    const { api, editor, notices, pictures } = this.app;
    const { picture } = editor;
    if (this.#running) return;
    if (!picture) return notices.say(t("Open a picture first."), { about: "picture" });
    if (editor.isEmpty) return notices.say(t("Mark what should change first: paint over it."), { about: "mask" });
    this.#runs(true);
    await this.app.attempt(async () => {
      const blob = await api.erase(picture.blob, await editor.maskBlob());
      if (editor.picture?.blob !== picture.blob) return; // another one was opened meanwhile
      this.app.film.select(null);
      await pictures.change(blob);
    });
    this.#runs(false);
  }

  /** @param {boolean} running */
  #runs(running) {
    this.#running = running;
    this.#button.disabled = running;
    set(this.#button, "aria-busy", String(running));
    this.#button.textContent = running ? t("Erasing…") : t("Erase");
  }
}
