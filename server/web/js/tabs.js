import { byId, h, set, show } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { newId } from "./workspace.js";

/** @typedef {{id: string, name: string}} Tab `id`: of its workspace; `name`: of its picture */

/**
 * The pictures that are open, as tabs: one is shown; the others keep their mask, history, settings and results, and
 * their paintings go on. Each is a workspace of its own in the browser's storage.
 */
export class Tabs {
  /** @type {Tab[]} */
  all;
  /** Closed ones, which can be brought back until the page is loaded again, by their ids. @type {string[]} */
  #closed = [];
  /** Those with results that were not seen yet. @type {Set<string>} */
  #news = new Set();
  /** @type {Promise<unknown>} one change after the other */
  #turn = Promise.resolve();
  #list = byId("tab-list");
  #desk;
  /** The tab that was asked for last: those that were asked for on the way to it are passed over. */
  #wanted;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
    this.#desk = this.#wanted = app.workspace;
    this.all = [{ id: app.workspace, name: "" }];
    for (const type of ["jobs", "progress"]) app.painting.addEventListener(type, () => this.#mark());
    app.editor.addEventListener("change", () => this.#rename());
    byId("new-tab").addEventListener("click", () => this.add());
  }

  /** Bring back the tabs of before a reload. */
  async load() {
    const { app } = this;
    const known = await app.database.get("workspaces", this.#desk);
    if (known?.tabs?.length) this.all = known.tabs;
    const shown = this.all.find(({ id }) => id === known?.shown) ?? this.all[0];
    app.workOn(shown.id);
    this.#wanted = shown.id;
    this.#show();
    for (const id of known?.closed ?? []) await app.drafts.purge(id);
  }

  /** Open another tab, without a picture. */
  add() {
    const tab = { id: newId(), name: "" };
    this.all = [...this.all, tab];
    this.show(tab.id);
  }

  /** @param {string} id */
  show(id) {
    this.#wanted = id;
    this.#turn = this.#turn.then(() => this.app.attempt(() => this.#move(id)));
  }

  /** Wait until the tab that was asked for is shown. */
  async settled() {
    await this.#turn;
  }

  /** Close a tab; its paintings are cancelled. @param {string} id */
  close(id) {
    const at = this.all.findIndex((tab) => tab.id === id);
    const tab = this.all[at];
    for (const job of this.app.painting.jobs.filter(({ order }) => order.workspace === id)) job.cancel();
    this.all = this.all.filter((one) => one !== tab);
    this.#closed.push(id);
    const next = this.all[at] ?? this.all[at - 1];
    if (!next) this.add();
    else this.show(id === this.#wanted ? next.id : this.#wanted);
    const action = { label: t("Bring it back"), run: () => this.#reopen(tab, at) };
    this.#turn = this.#turn.then(() => this.app.notices.say(t("Closed."), { action, testid: "tab-closed" }));
  }

  /** @param {Tab} tab @param {number} at */
  #reopen(tab, at) {
    this.#closed = this.#closed.filter((id) => id !== tab.id);
    this.all = this.all.toSpliced(at, 0, tab);
    this.show(tab.id);
  }

  /** Mark a tab whose results came while another one was shown. @param {string} id */
  tell(id) {
    this.#news.add(id);
    this.#mark();
  }

  /** @param {string} id */
  async #move(id) {
    const { app } = this;
    if (id !== this.#wanted) return;
    if (id !== app.workspace && this.all.some((tab) => tab.id === id)) {
      app.film.select(null);
      app.notices.clear();
      app.editor.locked = true; // what is drawn now would be lost
      try {
        await app.drafts.leave();
        app.workOn(id);
        await app.results.load();
        await app.drafts.open();
        await app.keeping.resume();
      } finally {
        app.editor.locked = false;
      }
    }
    this.#news.delete(id);
    this.#show();
    await this.#save();
  }

  async #save() {
    const about = { tabs: this.all, shown: this.app.workspace, closed: this.#closed };
    await this.app.database.put("workspaces", { id: this.#desk, usedAt: Date.now(), ...about });
  }

  /** The picture of the tab that is shown has another name. */
  #rename() {
    const tab = this.all.find(({ id }) => id === this.app.workspace);
    const name = this.app.editor.picture?.name ?? "";
    show(byId("tabs"), this.all.length > 1 || name !== "");
    if (!tab || tab.name === name || this.app.editor.locked) return;
    tab.name = name;
    this.#show();
    this.#save().catch(() => {}); // the draft says when there is no room
  }

  #show() {
    const hadFocus = this.#list.contains(document.activeElement);
    this.#list.replaceChildren(...this.all.map((tab) => this.#item(tab)));
    show(byId("tabs"), this.all.length > 1 || this.app.editor.picture !== null);
    if (hadFocus) this.#list.querySelector("[aria-current]")?.focus();
    this.#mark();
  }

  /** @param {Tab} tab */
  #item({ id, name }) {
    const text = name || t("No picture yet");
    const open = { type: "button", class: "tab-name", "data-testid": "tab", click: () => this.show(id) };
    const label = t("Close {name}", { name: text });
    const close = { type: "button", class: "icon-button", title: label, "aria-label": label };
    return h(
      "li",
      { class: "tab", "data-id": id },
      h("button", { ...open, "aria-current": id === this.app.workspace && "page" }, text),
      h("button", { ...close, "data-testid": "tab-close", click: () => this.close(id) }, icon("close")),
    );
  }

  /** Show which tabs are being painted in, and which have something new. */
  #mark() {
    for (const item of this.#list.children) {
      const id = item.getAttribute("data-id") ?? "";
      const paints = this.app.painting.jobs.some((job) => job.running && job.order.workspace === id);
      const state = paints ? "painting" : this.#news.has(id) ? "new" : null;
      set(item, "data-state", state);
      const title = state && (paints ? t("Being painted") : t("New results"));
      set(item.children[0], "title", title);
    }
  }
}
