import { byId } from "./dom.js";
import { downloadResult } from "./download.js";
import { t } from "./i18n.js";
import { noteOf, whyDraft } from "./refining.js";

/** @typedef {import("./results.js").Result} Result */

/** What can be done with a result: keep, discard, download, paint a draft exactly. */
export class Keeping {
  /** How often the person has chosen a result or changed the picture, its mask or its extension. */
  touched = 0;
  /** `touched` when a painting was asked for, by its key. @type {Map<string, number>} */
  #asked = new Map();

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
  }

  /** @returns {import("./film.js").Actions} */
  get actions() {
    const { attempt, comparing, settings } = this.app;
    return {
      select: (result) => {
        this.touched += 1;
        comparing.show(result);
        this.app.previewing.show();
      },
      keep: (result) => this.keep(result),
      discard: (result) => attempt(() => this.#discard(result)),
      download: (result) => this.download(result),
      lockSeed: (result) => (settings.set("seed", result.seed), settings.lockSeed(true)),
      takeOver: (result) => settings.takeOver(result.settings),
    };
  }

  /** Note that a painting is asked for, or gone on with. @param {import("./job.js").Order} order */
  ask({ key }) {
    if (!this.#asked.has(key)) this.#asked.set(key, this.touched);
  }

  /**
   * Take over a painting's pictures. They are shown if the person has done nothing with the picture, its mask or the
   * results since the painting was asked for; else they join the film, and the person goes on.
   * @param {import("./results.js").Painted} painted
   */
  async add(painted) {
    const { editor, film, notices, painting, results, settings, status } = this.app;
    const { order } = painted;
    if (results.all.some(({ batch }) => batch === order.id)) return painting.forget(order); // from before a reload
    const [first] = await results.add(painted);
    painting.forget(order);
    if (order.workspace !== this.app.workspace) return this.app.tabs.tell(order.workspace);
    const { touched } = this;
    if (this.#asked.get(order.key) === touched && !editor.isDrawing) {
      if (!settings.seedLocked) settings.set("seed", first.seed);
      film.select(first);
      this.touched = touched; // it was not the person who chose it
    }
    this.#asked.delete(order.key);
    const count = painted.blobs.length;
    status.say(count === 1 ? t("One picture is painted.") : t("{count} pictures are painted.", { count }));
    // That there are no drafts with these settings is said by the film.
    const warnings = painted.answer.warnings.filter((/** @type {string} */ text) => !text.startsWith("pace:")).join(" ");
    if (warnings) notices.say(warnings, { lasting: true, testid: "warning" });
  }

  /** Make a result the working picture. @param {Result|undefined} result */
  async keep(result) {
    const { attempt, drafts, notices, pictures, status } = this.app;
    if (!result) return;
    await attempt(async () => {
      const { base } = result;
      const isOther = base !== undefined && base !== pictures.id;
      if (result.place) status.say(t("Fetching the whole picture…"));
      await pictures.keep(await this.#whole(result), result);
      await drafts.save(); // before it is said to be kept
      status.say(t("The result is the working picture now."));
      const gone = t("This result was painted on an earlier picture, and has taken the place of the one that was open.");
      if (isOther) notices.say(`${gone} ${t("Undo brings that back.")}`, { testid: "kept-other" });
      byId("host").focus();
      this.#paintExactly(result);
    });
  }

  /** The file of a result that becomes the working picture. @param {Result} result */
  async #whole(result) {
    const { blob, exact } = await this.app.wholes.file(result);
    if (!exact) this.#sayLacking();
    return blob;
  }

  #sayLacking() {
    const wrote = t("The server no longer has this picture, so the browser wrote the file.");
    const lacks = t("It lacks the colour profile and the settings.");
    this.app.notices.say(`${wrote} ${lacks}`);
  }

  /** @param {Result} result */
  #paintExactly(result) {
    this.app.refining.begin(result);
    this.app.film.tell(result);
  }

  /** Put the exact picture in its draft's place. @param {Result} result */
  async refined(result) {
    const { comparing, film, pictures, status } = this.app;
    await pictures.swap(result, await this.#whole(result));
    if (film.selected?.id === result.id) comparing.show(result);
    film.tell(result);
    status.say(noteOf(result));
  }

  /** Go on with the exact pictures of drafts that were kept, and take over one that came just before the reload. */
  async resume() {
    const { pictures, refining, results } = this.app;
    const kept = pictures.result;
    const now = kept && results.all.find(({ id }) => id === kept.id);
    if (now && kept.draft && !now.draft) await pictures.swap(now, await this.#whole(now));
    refining.resume(now ?? null);
  }

  /** Say that a kept draft could not be painted exactly. @param {{result: Result, error: unknown}} detail */
  stayedDraft({ result, error }) {
    const action = { label: t("Try again"), run: () => this.#paintExactly(result) };
    this.app.notices.say(whyDraft(error), { level: "error", action, testid: "stays-draft" });
  }

  /** @param {Result} result */
  async #discard(result) {
    const { attempt, film, notices, results } = this.app;
    const next = results.all[results.all.indexOf(result) + 1];
    const restore = await results.discard(result);
    if (next?.batch === result.batch) film.select(next);
    notices.say(t("Discarded."), { action: { label: t("Bring it back"), run: () => attempt(restore) } });
  }

  /** @param {Result} result */
  async download(result) {
    const { attempt, wholes } = this.app;
    await attempt(async () => {
      if (!(await downloadResult(wholes, result))) this.#sayLacking();
    });
  }
}
