import { debounced, detailOf } from "./dom.js";
import { Past } from "./past.js";
import { newId } from "./workspace.js";

/** @typedef {import("./job.js").Order} Order */

const SAVE_AFTER_MS = 400;

/**
 * What is being worked on, kept so that a reload or a crash of the browser loses nothing: the picture, its strokes,
 * the settings, and the paintings that were asked for, with what is to be sent for those that the server has not.
 */
export class Drafts {
  /** @type {Promise<void>} one after the other, so that the last one written is the last one made */
  #writing = Promise.resolve();
  /** Grows with each change, so that a write that ends after a later change does not count as all of it. */
  #version = 0;
  /** The page is going: requests that break off now have not ended. */
  #leaving = false;
  /** Another workspace is being opened: what the editor holds meanwhile belongs to none. */
  #paused = false;

  /**
   * @param {import("./database.js").Database} database @param {string} workspace
   * @param {{pictures: import("./pictures.js").Pictures, settings: import("./settings.js").Settings,
   *   painting: import("./painting.js").Painting}} parts
   * @param {() => void} unsaved called when the browser has no room
   */
  constructor(database, workspace, parts, unsaved) {
    this.database = database;
    this.workspace = workspace;
    this.parts = parts;
    this.unsaved = unsaved;
    this.past = new Past(database, workspace);
  }

  /**
   * Restore, then keep what changes from now on.
   * @param {import("./editor/editor.js").Editor} editor @param {string[]} workspaces whose orders are gone on with
   * @returns {Promise<Order[]>} what was under way, oldest first
   * @throws {Error} the draft cannot be restored
   */
  async begin(editor, workspaces) {
    try {
      const draft = await this.database.get("drafts", this.workspace);
      if (draft) await this.#restore(draft);
      return await this.#orders(workspaces, draft?.order);
    } finally {
      this.#watch(editor); // also after a draft that cannot be restored
    }
  }

  /** Write what is not written yet; nothing is written until another workspace is open. */
  async leave() {
    await this.save();
    this.#paused = true;
  }

  /** Write into another workspace from now on. @param {string} workspace */
  use(workspace) {
    this.workspace = workspace;
    this.past = new Past(this.database, workspace);
  }

  /** Show what is in the workspace, or that there is nothing yet. @throws {Error} the draft cannot be restored */
  async open() {
    const { editor } = this.parts.pictures;
    try {
      const draft = await this.database.get("drafts", this.workspace);
      if (!draft?.picture) editor.close();
      if (draft) await this.#restore(draft);
      this.#paused = false;
      await this.save();
    } catch (error) {
      editor.close();
      throw error;
    } finally {
      this.#paused = false;
    }
  }

  /** Delete a workspace: its draft, its results and their files. @param {string} workspace */
  async purge(workspace) {
    const { database } = this;
    const past = new Past(database, workspace);
    const draft = await database.get("drafts", workspace);
    if (draft?.picture) await past.load(draft.picture).catch(() => {}); // what is lost need not be deleted
    await past.tidy(null);
    for (const { id } of await database.list("results", workspace)) {
      await database.delete("pictures", id);
      await database.delete("results", id);
    }
    await database.delete("drafts", workspace);
  }

  /** @param {import("./editor/editor.js").Editor} editor */
  #watch(editor) {
    const afterwards = debounced(() => this.save(), SAVE_AFTER_MS);
    const later = () => {
      this.#changed();
      afterwards();
    };
    let shown = editor.picture?.blob;
    editor.addEventListener("change", () => {
      const isOther = shown !== editor.picture?.blob; // opened, kept, or brought back: too much to lose
      shown = editor.picture?.blob;
      if (isOther) this.save();
      else later();
    });
    editor.addEventListener("swap", later);
    this.parts.settings.addEventListener("change", later);
    this.parts.painting.addEventListener("order", (event) => this.#keep(detailOf(event)));
    this.parts.painting.addEventListener("end", (event) => this.#forget(detailOf(event)));
    // The page may be gone before the pause is over.
    const now = () => document.body.dataset.draft === "changed" && this.save();
    document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && now());
    window.addEventListener("pagehide", () => {
      this.#leaving = true;
      now();
    });
    window.addEventListener("pageshow", () => (this.#leaving = false));
  }

  /** @param {string[]} workspaces @param {?Order} [old] from the draft of an earlier version of this page, without a key */
  async #orders(workspaces, old) {
    /** @type {Order[]} */
    const kept = (await Promise.all(workspaces.map((one) => this.database.list("orders", one)))).flat();
    if (old?.id) kept.push({ ...old, key: newId(), workspace: this.workspace, at: 0, form: null, base: "", target: null });
    return kept.sort((a, b) => a.at - b.at);
  }

  /** @param {Order} order */
  #keep(order) {
    // What the server has need not be sent again: its pictures are not kept twice.
    return this.#afterwards(() => this.database.put("orders", order.id ? { ...order, form: null } : order));
  }

  /** @param {Order} order */
  #forget({ key }) {
    if (this.#leaving) return;
    return this.#afterwards(() => this.database.delete("orders", key));
  }

  /** @returns {number} the version that the draft has now */
  #changed() {
    document.body.dataset.draft = "changed";
    return ++this.#version;
  }

  save() {
    if (this.#paused) return this.#writing;
    const { past } = this.parts.pictures;
    const settings = this.parts.settings.toJSON();
    const { workspace, past: files } = this;
    return this.#afterwards(async () => {
      const picture = await files.save(past);
      await this.database.put("drafts", { workspace, picture, settings });
      await files.tidy(picture);
    });
  }

  /** @param {() => Promise<void>} write is done after those that were begun before */
  #afterwards(write) {
    const version = this.#changed();
    this.#writing = this.#writing.then(() => this.#write(write, version));
    return this.#writing;
  }

  /** @param {() => Promise<void>} write @param {number} version */
  async #write(write, version) {
    try {
      await write();
      if (version === this.#version) document.body.dataset.draft = "saved";
    } catch {
      this.unsaved();
    }
  }

  /** @param {any} draft what `save` wrote */
  async #restore({ picture, settings }) {
    this.parts.settings.restore(settings);
    if (picture) await this.parts.pictures.revive(await this.past.load(picture));
  }
}
