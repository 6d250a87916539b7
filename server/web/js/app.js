import { Comparing } from "./comparing.js";
import { Connection } from "./connection.js";
import { byId, detailOf, save, show } from "./dom.js";
import { downloadResult } from "./download.js";
import { Drafts } from "./drafts.js";
import { Film } from "./film.js";
import { Notices } from "./notices.js";
import { Opening } from "./opening.js";
import { Painting } from "./painting.js";
import { Panel } from "./panel.js";
import { Pictures } from "./pictures.js";
import { PRESETS } from "./presets.js";
import { noteOf, Refining, whyDraft } from "./refining.js";
import { Results } from "./results.js";
import { Settings } from "./settings.js";
import { StatusView } from "./status.js";
import { Tools } from "./tools.js";

/** @typedef {import("./results.js").Result} Result */

const BOX_FIELDS = ["area", "padding", "grow", "feather", "soft"];
const EXAMPLE = { path: "web/example.jpg", name: "portrait.jpg", prompt: "a red circle" };

/** The parts of the page and their connections. */
export class App {
  #waiting = false; // the Paint button was pressed, and a draft is being painted exactly

  /**
   * @param {object} of
   * @param {import("./editor/editor.js").Editor} of.editor @param {import("./api.js").Api} of.api
   * @param {import("./keyring.js").Keyring} of.keyring
   * @param {import("./database.js").Database} of.database @param {string} of.workspace
   */
  constructor({ editor, api, keyring, database, workspace }) {
    this.editor = editor;
    this.api = api;
    this.keyring = keyring;
    this.database = database;
    this.settings = new Settings();
    this.pictures = new Pictures(editor);
    this.results = new Results(database, workspace);
    this.painting = new Painting(api);
    this.refining = new Refining(api, this.results, (result, blob) => this.#try(() => this.#refined(result, blob)));
    this.notices = new Notices(byId("notices"));
    this.drafts = new Drafts(database, workspace, this, () => this.#unsaved());
    this.connection = new Connection(api, (error) => this.fail(error, () => this.connection.connect()));
    this.status = new StatusView(this.painting);
    this.panel = new Panel(this.settings, editor);
    this.comparing = new Comparing(editor, this.results, byId("compare"), (error) => this.fail(error));
    this.film = new Film(this.results, this.#resultActions());
    this.opening = new Opening({
      picture: (blob, name) => this.openPicture(blob, name),
      mask: (blob) => this.#try(() => editor.loadMask(blob)),
      result: (id) => this.keep(this.results.all.find((result) => result.id === id)),
      hasPicture: () => editor.picture !== null,
    });
    this.tools = new Tools(editor, () => this.opening.chooseMask());
    this.#listen();
  }

  /** Bring back what a reload interrupted. */
  async begin() {
    await this.results.load();
    let order = null;
    await this.#try(async () => (order = await this.drafts.begin(this.editor)));
    this.#showPicture();
    this.connection.connect();
    if (!this.database.lasting) {
      this.notices.say("This browser keeps nothing for this page: a reload loses your work.", { lasting: true });
    }
    if (order) this.painting.resume(order);
    await this.#try(() => this.#resumeKept());
  }

  /** Go on with the exact pictures of drafts that were kept, and take over one that came just before the reload. */
  async #resumeKept() {
    const kept = this.pictures.result;
    const now = kept && this.results.all.find(({ id }) => id === kept.id);
    if (now && kept.draft && !now.draft) await this.pictures.swap(now, await this.results.file(now));
    this.refining.resume(now ?? null);
  }

  #listen() {
    this.editor.addEventListener("change", () => this.#changed());
    this.settings.addEventListener("change", () => this.#showBox());
    this.connection.addEventListener("offer", () => this.#offered());
    this.painting.addEventListener("progress", () => this.#progressed());
    this.painting.addEventListener("preview", (event) => this.#preview(detailOf(event)));
    this.painting.addEventListener("painted", (event) => this.#painted(detailOf(event)));
    this.painting.addEventListener("failed", (event) => this.fail(detailOf(event), () => this.paint()));
    this.results.addEventListener("unsaved", () => this.#unsaved());
    this.refining.addEventListener("failed", (event) => this.#stayedDraft(detailOf(event)));
  }

  // The picture

  /** @param {Blob} blob @param {string} name */
  async openPicture(blob, name) {
    if (this.painting.running) return this.notices.say("Cancel the painting, or wait for it, to open a picture.");
    await this.#try(async () => {
      this.film.select(null);
      await this.pictures.open(blob, name);
      byId("host").focus();
      await this.#askForSettings(blob);
    });
  }

  async openExample() {
    const answer = await fetch(EXAMPLE.path);
    if (!this.settings.get("prompt")) this.settings.set("prompt", EXAMPLE.prompt);
    await this.openPicture(await answer.blob(), EXAMPLE.name);
  }

  /** Offer the settings of an earlier result, to go on from there. @param {Blob} blob */
  async #askForSettings(blob) {
    const made = await this.api.info(blob).catch(() => null); // no reason to stop the person who opened a picture
    const settings = made?.settings;
    if (!settings || this.editor.picture?.blob !== blob) return;
    const about = settings.prompt ? `: “${settings.prompt}”` : "";
    const leftOut = made.left_out.length ? ` Not as it says: ${made.left_out.join("; ")}.` : "";
    this.notices.say(`This picture says how it was painted${about}.${leftOut}`, {
      action: { label: "Use its settings", run: () => this.settings.takeOver(settings) },
      lasting: true,
      testid: "settings-found",
    });
  }

  #changed() {
    this.film.select(null); // what is edited must be seen
    this.#showPicture();
  }

  #showPicture() {
    const { picture, canUndo, canRedo } = this.editor;
    document.body.classList.toggle("has-picture", picture !== null);
    show(byId("empty"), picture === null);
    byId("picture-name").textContent = picture ? picture.name : "";
    byId("picture-size").textContent = picture ? `${picture.width} × ${picture.height}` : "";
    byId("undo").disabled = !canUndo;
    byId("redo").disabled = !canRedo;
  }

  #showBox() {
    const known = BOX_FIELDS.filter((name) => this.settings.get(name) !== undefined);
    const fields = Object.fromEntries(known.map((name) => [name, this.settings.get(name)]));
    const native = this.connection.offer?.native_size;
    this.editor.settings = { ...fields, ...(native ? { native } : {}) };
  }

  #offered() {
    const { offer } = this.connection;
    if (!offer) return;
    this.settings.adopt(offer);
    this.panel.offer(offer);
    show(byId("example"), offer.model === "demo");
  }

  // Painting

  async paint() {
    if (this.painting.running || this.#waiting) return;
    const missing = this.#missing();
    if (missing) return missing();
    await this.#untilExact();
    const { picture, extend } = this.editor;
    if (!picture) return;
    this.notices.clear();
    this.film.select(null);
    const form = new FormData();
    for (const [name, value] of this.settings.toForm()) form.set(name, value);
    form.set("image", picture.blob, picture.name);
    form.set("mask", await this.editor.maskBlob(), "mask.png");
    const sides = [extend.left, extend.top, extend.right, extend.bottom];
    if (sides.some((side) => side > 0)) form.set("extend", sides.join(","));
    await this.painting.paint(form, { settings: this.settings.toJSON().values, origin: this.pictures.origin });
  }

  /** Wait for the exact picture of a draft that was kept: what is painted next is painted on it. */
  async #untilExact() {
    if (!this.refining.running) return;
    this.#waiting = true;
    const impatient = new Promise((resolve) => {
      const action = { label: "Do not wait", run: () => resolve(null) };
      this.notices.say("First the kept draft is painted exactly.", { action, testid: "waiting-for-exact" });
    });
    await Promise.race([this.refining.settled(), impatient]);
    this.#waiting = false;
  }

  /** @returns {?(() => void)} what says what is missing, and leads there */
  #missing() {
    const { intent } = this.settings;
    if (!this.editor.picture) {
      const action = { label: "Open", run: () => this.opening.choosePicture() };
      return () => this.notices.say("Open a picture first.", { action });
    }
    if (this.editor.isEmpty) {
      const mark = "Mark what should change first: paint over it.";
      const what = intent === "extend" ? "Drag an edge of the picture outwards first." : mark;
      return () => (this.notices.say(what), byId("host").focus());
    }
    if (PRESETS[intent].needsPrompt && !this.settings.get("prompt").trim()) {
      return () => (this.notices.say("Say what should be painted."), this.panel.focusPrompt());
    }
    return null;
  }

  #progressed() {
    this.editor.locked = this.painting.running;
    if (!this.painting.running) this.editor.preview(null);
  }

  /** @param {string} url of a PNG, as data */
  async #preview(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const bitmap = await createImageBitmap(image);
    if (this.painting.running) this.editor.preview(bitmap);
  }

  /** @param {import("./results.js").Painted} painted */
  async #painted(painted) {
    const [first] = await this.results.add(painted);
    if (!this.settings.seedLocked) this.settings.set("seed", first.seed);
    this.film.select(first);
    const count = painted.blobs.length;
    this.status.say(count === 1 ? "One picture is painted." : `${count} pictures are painted.`);
    // That there are no drafts with these settings is said by the film.
    const warnings = painted.answer.warnings.filter((/** @type {string} */ text) => !text.startsWith("pace:")).join(" ");
    if (warnings) this.notices.say(warnings, { lasting: true, testid: "warning" });
  }

  // Results

  /** @returns {import("./film.js").Actions} */
  #resultActions() {
    return {
      select: (result) => this.comparing.show(result),
      keep: (result) => this.keep(result),
      discard: (result) => this.#try(() => this.#discard(result)),
      download: (result) => this.#try(() => this.#download(result)),
      lockSeed: (result) => (this.settings.set("seed", result.seed), this.settings.lockSeed(true)),
      takeOver: (result) => this.settings.takeOver(result.settings),
    };
  }

  /** @param {Result|undefined} result */
  async keep(result) {
    if (!result || this.painting.running) return;
    await this.#try(async () => {
      await this.pictures.keep(await this.results.file(result), result);
      this.status.say("The result is the working picture now.");
      byId("host").focus();
      this.#paintExactly(result);
    });
  }

  /** @param {Result} result */
  #paintExactly(result) {
    this.refining.begin(result);
    this.film.tell(result);
  }

  /** The exact picture takes its draft's place. @param {Result} result @param {Blob} blob */
  async #refined(result, blob) {
    await this.pictures.swap(result, blob);
    if (this.film.selected?.id === result.id) this.comparing.show(result);
    this.film.tell(result);
    this.status.say(noteOf(result));
  }

  /** @param {{result: Result, error: unknown}} detail */
  #stayedDraft({ result, error }) {
    const action = { label: "Try again", run: () => this.#paintExactly(result) };
    this.notices.say(whyDraft(error), { level: "error", action, testid: "stays-draft" });
  }

  /** @param {Result} result */
  async #discard(result) {
    const { all } = this.results;
    const next = all[all.indexOf(result) + 1];
    const restore = await this.results.discard(result);
    if (next?.batch === result.batch) this.film.select(next);
    this.notices.say("Discarded.", { action: { label: "Bring it back", run: () => this.#try(restore) } });
  }

  /** @param {Result} result */
  async #download(result) {
    const whole = await downloadResult(this.api, this.results, result);
    if (whole) return;
    const lacks = "so the browser wrote the file: without its colour profile and settings.";
    this.notices.say(`The server no longer has this picture, ${lacks}`);
  }

  /** Download the selected result, else the working picture. */
  download() {
    const { picture } = this.editor;
    const result = this.film.selected ?? this.pictures.result;
    if (result) this.#try(() => this.#download(result));
    else if (picture) save(picture.blob, picture.name);
  }

  // What went wrong

  /** @param {unknown} error @param {?(() => void)} again */
  fail(error, again = null) {
    this.notices.fail(error, again, async () => {
      if (await this.keyring.change()) (again ?? (() => this.connection.connect()))();
    });
  }

  #unsaved() {
    const lost = "This browser has no room left: what you see is lost when the page is closed.";
    this.notices.say(`${lost} Download what you want to keep.`, { lasting: true });
  }

  /** Show what goes wrong as a notice. @param {() => unknown} action */
  async #try(action) {
    try {
      await action();
    } catch (error) {
      this.fail(error);
    }
  }
}
