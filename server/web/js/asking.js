import { byId } from "./dom.js";
import { PRESETS } from "./presets.js";

/** The Paint button: what is missing, and what is sent when nothing is. */
export class Asking {
  #waiting = false; // the Paint button was pressed, and a draft is being painted exactly

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
  }

  async paint() {
    const { editor, film, notices, painting, pictures, settings } = this.app;
    if (painting.running || this.#waiting) return;
    const missing = this.#missing();
    if (missing) return missing();
    await this.#untilExact();
    if (!editor.picture) return;
    notices.clear();
    this.app.prompts.remember();
    film.select(null);
    await painting.paint(await this.#form(editor.picture), {
      settings: settings.toJSON().values,
      origin: pictures.origin,
    });
  }

  /** @param {import("./editor/editor.js").OpenPicture} picture */
  async #form(picture) {
    const { editor, settings } = this.app;
    const form = new FormData();
    for (const [name, value] of settings.toForm()) form.set(name, value);
    form.set("image", picture.blob, picture.name);
    form.set("mask", await editor.maskBlob(), "mask.png");
    const { left, top, right, bottom } = editor.extend;
    const sides = [left, top, right, bottom];
    if (sides.some((side) => side > 0)) form.set("extend", sides.join(","));
    return form;
  }

  /** Wait for the exact picture of a draft that was kept: what is painted next is painted on it. */
  async #untilExact() {
    const { notices, refining } = this.app;
    if (!refining.running) return;
    this.#waiting = true;
    const impatient = new Promise((resolve) => {
      const action = { label: "Do not wait", run: () => resolve(null) };
      notices.say("First the kept draft is painted exactly.", { action, testid: "waiting-for-exact" });
    });
    await Promise.race([refining.settled(), impatient]);
    this.#waiting = false;
  }

  /** @returns {?(() => void)} what says what is missing, and leads there */
  #missing() {
    const { editor, notices, opening, panel, settings } = this.app;
    const { intent } = settings;
    if (!editor.picture) {
      const action = { label: "Open", run: () => opening.choosePicture() };
      return () => notices.say("Open a picture first.", { action });
    }
    if (editor.isEmpty) {
      const mark = "Mark what should change first: paint over it.";
      const what = intent === "extend" ? "Drag an edge of the picture outwards first." : mark;
      return () => (notices.say(what), byId("host").focus());
    }
    if (PRESETS[intent].needsPrompt && !settings.get("prompt").trim()) {
      return () => (notices.say("Say what should be painted."), panel.focusPrompt());
    }
    return null;
  }
}
