import { basisOf, placeOn } from "./bases.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { PRESETS } from "./presets.js";
import { newId } from "./workspace.js";

/** The Paint button: what is missing, and what is sent when nothing is. */
export class Asking {
  /** Resolved by a person who does not wait for a draft's exact picture. @type {?Promise<unknown>} */
  #impatience = null;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
  }

  /** Ask for a painting of the picture, the mask and the settings as they are now; it is queued behind the others. */
  async paint() {
    const { editor, film, notices, painting } = this.app;
    await this.app.tabs.settled();
    await editor.settled();
    const missing = this.#missing();
    if (missing) return missing();
    notices.clear();
    this.app.prompts.remember();
    film.select(null);
    await this.app.attempt(async () => {
      const order = await this.#order();
      await this.#untilExact(order);
      painting.begin(order);
    });
  }

  /** Take down what is to be painted, before anything of it can change. @returns {Promise<import("./job.js").Order>} */
  async #order() {
    const { editor, pictures, results, settings, workspace } = this.app;
    const picture = /** @type {import("./editor/editor.js").OpenPicture} */ (editor.picture);
    const { target } = editor;
    const { left, top, right, bottom } = editor.extend;
    const sides = [left, top, right, bottom];
    /** @type {import("./job.js").Form} */
    const form = [...settings.toForm(), ["image", picture.blob, picture.name]];
    if (sides.some((side) => side > 0)) form.push(["extend", sides.join(",")]);
    const place = placeOn(pictures.id, picture, editor.extend);
    results.bases.hold(place.basis, picture.shown);
    const about = { settings: settings.toJSON().values, origin: pictures.origin, base: pictures.id, place };
    const thumbnail = target && editor.thumbnail(target);
    form.push(["mask", await editor.maskBlob(), "mask.png"]);
    return { ...about, key: newId(), workspace, at: Date.now(), id: "", form, target, thumbnail: await thumbnail };
  }

  /**
   * Wait for the exact picture of a draft that was kept: what is painted next is painted on it.
   * @param {import("./job.js").Order} order
   */
  async #untilExact({ base, form, place }) {
    const { notices, refining, results, wholes } = this.app;
    if (!refining.running) return;
    this.#impatience ??= new Promise((resolve) => {
      const action = { label: t("Do not wait"), run: () => resolve(null) };
      notices.say(t("First the kept draft is painted exactly."), { action, testid: "waiting-for-exact" });
    });
    await Promise.race([refining.settled(), this.#impatience]);
    this.#impatience = null;
    const exact = results.all.find(({ id }) => id === base);
    const image = form?.find(([name]) => name === "image");
    if (!exact || exact.draft || !image || !place) return;
    const { blob } = await wholes.file(exact);
    image[1] = blob;
    place.basis = basisOf(base, blob);
    results.bases.hold(place.basis, blob);
  }

  /** @returns {?(() => void)} what says what is missing, and leads there */
  #missing() {
    const { editor, notices, opening, panel, settings } = this.app;
    const { intent } = settings;
    if (!editor.picture) {
      const action = { label: t("Open"), run: () => opening.choosePicture() };
      return () => notices.say(t("Open a picture first."), { action, about: "picture" });
    }
    if (editor.isEmpty) return () => (notices.say(this.#nothingMarked(), { about: "mask" }), byId("host").focus());
    if (PRESETS[intent].needsPrompt && !settings.get("prompt").trim()) {
      return () => (notices.say(t("Say what should be painted."), { about: "prompt" }), panel.focusPrompt());
    }
    return null;
  }

  #nothingMarked() {
    const { editor, settings } = this.app;
    if (editor.isFaint) return t("The strokes are too faint: below 50 % opacity counts only in Add.");
    if (settings.intent === "extend") return t("Drag an edge of the picture outwards first.");
    return t("Mark what should change first: paint over it.");
  }

  /** Whether what a notice said is missing is there now. @param {import("./notices.js").About} about */
  isThere(about) {
    const { editor, settings } = this.app;
    if (about === "picture") return editor.picture !== null;
    if (about === "mask") return !editor.isEmpty;
    return about === "prompt" && (!PRESETS[settings.intent].needsPrompt || settings.get("prompt").trim() !== "");
  }
}
