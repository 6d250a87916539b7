import { openExample } from "./about.js";
import { byId, save, show } from "./dom.js";
import { t } from "./i18n.js";

/** The working picture: opening another one, its name and size above it, its download. */
export class Working {
  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
  }

  /** @param {Blob} blob @param {string} name */
  async open(blob, name) {
    const { app } = this;
    await app.attempt(async () => {
      app.film.select(null);
      await app.pictures.open(blob, name);
      byId("host").focus();
      await this.#askForSettings(blob);
    }, "file");
  }

  openExample() {
    return this.app.attempt(() => openExample(this.app));
  }

  /** Offer the settings of an earlier result, to go on from there. @param {Blob} blob */
  async #askForSettings(blob) {
    const { api, editor, notices } = this.app;
    const made = await api.info(blob).catch(() => null); // no reason to stop the person who opened a picture
    const settings = made?.settings;
    if (!settings || editor.picture?.blob !== blob) return;
    const plain = t("This picture says how it was painted.");
    const { prompt } = settings;
    const says = prompt ? t("This picture says how it was painted: “{prompt}”.", { prompt }) : plain;
    const leftOut = made.left_out.length ? ` ${t("Not as it says: {what}.", { what: made.left_out.join("; ") })}` : "";
    notices.say(`${says}${leftOut}`, {
      action: { label: t("Use its settings"), run: () => this.app.settings.takeOver(settings) },
      lasting: true,
      testid: "settings-found",
    });
  }

  /** Show the name, the size and what can be undone. */
  show() {
    const { picture, canUndo, canRedo } = this.app.editor;
    document.body.classList.toggle("has-picture", picture !== null);
    show(byId("empty"), picture === null);
    byId("picture-name").textContent = picture ? picture.name : "";
    byId("picture-size").textContent = picture ? `${picture.width} × ${picture.height}` : "";
    byId("undo").disabled = !canUndo;
    byId("redo").disabled = !canRedo;
  }

  /** Download the selected result, else the working picture. */
  download() {
    const { editor, film, keeping, pictures } = this.app;
    const result = film.selected ?? pictures.result;
    if (result) keeping.download(result);
    else if (editor.picture) save(editor.picture.blob, editor.picture.name);
  }
}
