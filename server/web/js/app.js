import { AboutLine } from "./about.js";
import { Asking } from "./asking.js";
import { Comparing } from "./comparing.js";
import { Connection } from "./connection.js";
import { byId, detailOf, show } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Erasing } from "./erasing.js";
import { Film } from "./film.js";
import { t } from "./i18n.js";
import { JobsView } from "./jobs.js";
import { Keeping } from "./keeping.js";
import { ModelChoice, modelOf } from "./models.js";
import { Notices } from "./notices.js";
import { Opening } from "./opening.js";
import { Painting } from "./painting.js";
import { Panel } from "./panel.js";
import { Pictures } from "./pictures.js";
import { Previewing } from "./previewing.js";
import { Prompts } from "./prompts.js";
import { Refining } from "./refining.js";
import { Results } from "./results.js";
import { Saving } from "./saving.js";
import { Selecting } from "./selecting.js";
import { Settings } from "./settings.js";
import { StatusView } from "./status.js";
import { Tabs } from "./tabs.js";
import { Tools } from "./tools.js";
import { Wholes } from "./wholes.js";
import { Working } from "./working.js";

const BOX_FIELDS = ["area", "padding", "grow", "feather", "soft"];

/**
 * The parts of the page and their connections. A part that needs others gets them as functions or, where it would be
 * many, the app itself: `asking` is the Paint button, `painting` the jobs that it began, `working` the picture that is
 * open, `keeping` what is done with results. A new part is made here and hears of the others by their events, see
 * `#listen`: what a painting brings comes as its "painted" event, and `keeping.add` puts it into the film.
 */
export class App {
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
    this.workspace = workspace;
    this.settings = new Settings();
    this.pictures = new Pictures(editor);
    this.results = new Results(database, workspace);
    this.painting = new Painting(api);
    this.painting.workspace = workspace;
    this.notices = new Notices(byId("notices"));
    this.asking = new Asking(this);
    this.working = new Working(this);
    this.erasing = new Erasing(this);
    this.keeping = new Keeping(this);
    this.previewing = new Previewing(this);
    this.wholes = new Wholes(api, this.results, this.pictures);
    this.refining = new Refining(api, this.results, (result) => this.attempt(() => this.keeping.refined(result)));
    this.drafts = new Drafts(database, workspace, this, () => this.#unsaved());
    this.connection = new Connection(api, (error) => this.fail(error, () => this.connection.connect()));
    this.status = new StatusView(this.painting);
    this.jobs = new JobsView(this.painting);
    this.panel = new Panel(this.settings, editor);
    this.prompts = new Prompts(this.settings);
    this.models = new ModelChoice(this.settings);
    this.about = new AboutLine(this.settings);
    this.comparing = new Comparing(editor, this.wholes, byId("compare"), (error) => this.fail(error));
    this.film = new Film(this.results, this.keeping.actions);
    this.opening = new Opening({
      picture: (blob, name) => this.working.open(blob, name),
      mask: (blob) => this.attempt(() => editor.loadMask(blob), "file"),
      result: (id) => this.keeping.keep(this.results.all.find((result) => result.id === id)),
      hasPicture: () => editor.picture !== null,
      displayable: (source) => api.displayable(source),
      say: (text) => this.notices.say(text),
      attempt: (action) => this.attempt(action),
    });
    this.saving = new Saving(this);
    this.selecting = new Selecting({
      editor,
      api,
      offer: () => this.connection.offer?.select ?? null,
      say: (text) => this.notices.say(text, { testid: "nothing-found" }),
      fail: (error) => this.fail(error),
    });
    this.tools = new Tools(editor, this.selecting, () => this.opening.chooseMask());
    this.tabs = new Tabs(this);
    this.#listen();
  }

  /** Bring back what a reload interrupted. */
  async begin() {
    await this.tabs.load();
    await this.results.load();
    /** @type {import("./job.js").Order[]} */
    let orders = [];
    await this.attempt(async () => (orders = await this.drafts.begin(this.editor, this.tabs.all.map(({ id }) => id))));
    this.working.show();
    this.connection.connect();
    if (!this.database.lasting) {
      this.notices.say(t("This browser keeps nothing for this page: a reload loses your work."), { lasting: true });
    }
    for (const order of orders) {
      this.keeping.ask(order);
      this.painting.resume(order);
    }
    await this.attempt(() => this.keeping.resume());
  }

  /** Work in another workspace from now on; `tabs` does the rest. @param {string} workspace */
  workOn(workspace) {
    this.workspace = this.results.workspace = workspace;
    this.drafts.use(workspace);
    this.painting.show(workspace);
  }

  #listen() {
    this.editor.addEventListener("change", () => this.#changed());
    this.editor.addEventListener("failed", (event) => this.fail(detailOf(event)));
    this.settings.addEventListener("change", () => {
      this.#showBox();
      this.#settle();
    });
    this.connection.addEventListener("offer", () => this.#offered());
    this.connection.addEventListener("back", () => this.notices.settle("server"));
    this.painting.addEventListener("order", (event) => this.keeping.ask(detailOf(event)));
    this.painting.addEventListener("jobs", () => this.previewing.show());
    this.painting.addEventListener("progress", (event) => detailOf(event).progress.state === "lost" && this.connection.connect());
    this.painting.addEventListener("preview", (event) => this.previewing.take(detailOf(event)));
    this.painting.addEventListener("painted", (event) => {
      this.notices.settle("server");
      this.keeping.add(detailOf(event));
    });
    this.painting.addEventListener("failed", (event) => this.#failed(detailOf(event)));
    this.results.addEventListener("unsaved", () => this.#unsaved());
    this.refining.addEventListener("failed", (event) => this.keeping.stayedDraft(detailOf(event)));
  }

  #changed() {
    this.keeping.touched += 1;
    this.film.select(null); // what is edited must be seen
    this.working.show();
    this.previewing.show();
    this.notices.settle("file"); // another one was opened, or the person went on without
    this.#settle();
  }

  #showBox() {
    const known = BOX_FIELDS.filter((name) => this.settings.get(name) !== undefined);
    const fields = Object.fromEntries(known.map((name) => [name, this.settings.get(name)]));
    const { offer } = this.connection;
    const model = offer && modelOf(offer, this.settings.get("model"));
    const native = model?.native_size;
    this.connection.model = this.settings.get("model");
    if (model) this.about.offer(model.about);
    this.editor.settings = { ...fields, ...(native ? { native } : {}) };
    const title = this.settings.get("soft") ? "" : t("Counts only in Add; elsewhere a pixel is repainted from 50 % on.");
    for (const id of ["brush-hardness", "brush-strength"]) byId(id).title = title;
  }

  #offered() {
    const { offer } = this.connection;
    if (!offer) return;
    this.settings.adopt(offer);
    this.panel.offer(offer);
    this.models.offer(offer);
    this.erasing.offer(offer);
    this.tools.show();
    this.about.offer(modelOf(offer, this.settings.get("model")).about);
    show(byId("example"), !offer.about.photographs);
  }

  /** @param {{job: import("./job.js").Job, error: unknown}} failed */
  #failed({ job, error }) {
    const again = () => (this.painting.remove(job), this.asking.paint());
    this.fail(error, job.order.form ? () => this.painting.again(job) : again, "server");
  }

  /** @param {unknown} error @param {?(() => void)} again @param {import("./notices.js").About} about */
  fail(error, again = null, about = null) {
    const newKey = async () => {
      if (await this.keyring.change()) (again ?? (() => this.connection.connect()))();
    };
    this.notices.fail(error, again, newKey, about);
  }

  /** Take away a notice whose cause has gone. */
  #settle() {
    if (this.asking.isThere(this.notices.about)) this.notices.clear();
  }

  #unsaved() {
    const lost = t("This browser has no room left: what you see is lost when the page is closed.");
    this.notices.say(`${lost} ${t("Download what you want to keep.")}`, { lasting: true });
  }

  /**
   * Show what goes wrong as a notice.
   * @param {() => unknown} action @param {import("./notices.js").About} [about] whose change makes the notice untrue
   */
  attempt = async (action, about = null) => {
    try {
      await action();
    } catch (error) {
      this.fail(error, null, about);
    }
  };
}
