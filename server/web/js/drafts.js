import { debounced } from "./dom.js";

const SAVE_AFTER_MS = 400;

/**
 * What is being worked on, kept so that a reload or a crash of the browser loses nothing: the picture, its strokes,
 * the settings, and the request under way.
 */
export class Drafts {
  /** @type {Promise<void>} one after the other, so that the last one written is the last one made */
  #writing = Promise.resolve();
  /** Grows with each change, so that a write that ends after a later change does not count as all of it. */
  #version = 0;

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
  }

  /**
   * Restore, then keep what changes from now on.
   * @param {import("./editor/editor.js").Editor} editor
   * @returns {Promise<?import("./painting.js").Order>} what was under way
   * @throws {Error} the draft cannot be restored
   */
  async begin(editor) {
    try {
      const draft = await this.database.get("drafts", this.workspace);
      return draft ? await this.#restore(draft) : null;
    } finally {
      this.#watch(editor); // also after a draft that cannot be restored
    }
  }

  /** @param {import("./editor/editor.js").Editor} editor */
  #watch(editor) {
    const afterwards = debounced(() => this.save(), SAVE_AFTER_MS);
    const later = () => {
      this.#changed();
      afterwards();
    };
    editor.addEventListener("change", later);
    editor.addEventListener("swap", later);
    this.parts.settings.addEventListener("change", later);
    this.parts.painting.addEventListener("order", () => this.save());
    // The page may be gone before the pause is over.
    document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.save());
  }

  /** @returns {number} the version that the draft has now */
  #changed() {
    document.body.dataset.draft = "changed";
    return ++this.#version;
  }

  save() {
    const version = this.#changed();
    const { pictures, settings, painting } = this.parts;
    const draft = {
      workspace: this.workspace,
      picture: pictures.toJSON(),
      settings: settings.toJSON(),
      order: painting.order,
    };
    this.#writing = this.#writing.then(() => this.#write(draft, version));
    return this.#writing;
  }

  /** @param {object} draft @param {number} version */
  async #write(draft, version) {
    try {
      await this.database.put("drafts", draft);
      if (version === this.#version) document.body.dataset.draft = "saved";
    } catch {
      this.unsaved();
    }
  }

  /** @param {any} draft what `save` wrote */
  async #restore({ picture, settings, order }) {
    this.parts.settings.restore(settings);
    if (picture) await this.parts.pictures.restore(picture);
    return picture ? order : null;
  }
}
