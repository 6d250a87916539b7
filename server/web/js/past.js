import { t } from "./i18n.js";
import { newId } from "./workspace.js";

/**
 * One picture of the history: its file, what is known of it, and the steps on it.
 * @typedef {object} SourcedChapter
 * @property {string} id see `Pictures`
 * @property {Blob} blob
 * @property {string} name
 * @property {{name: string, type: string}} origin
 * @property {?import("./results.js").Result} result
 * @property {import("./editor/ops.js").Op[]} steps
 *
 * @typedef {{at: number, chapters: SourcedChapter[]}} SourcedPast
 */

const MOST = 8; // pictures: a photograph's PNG has some 20 MB

/** The history of pictures, kept for a reload: each file once, apart from the draft, which is written at every stroke. */
export class Past {
  /** The files that are kept, by their names in the store. @type {Map<string, Blob>} */
  #kept = new Map();

  /** @param {import("./database.js").Database} database @param {string} workspace */
  constructor(database, workspace) {
    this.database = database;
    this.workspace = workspace;
  }

  /** Keep the files. @param {?SourcedPast} past @returns {Promise<?object>} the rest, for the draft */
  async save(past) {
    if (!past) return null;
    const { at, chapters } = recent(past);
    const files = new Map(chapters.map(({ id, blob }) => [this.#name(id), blob]));
    for (const [name, blob] of files) {
      if (this.#kept.get(name) === blob) continue;
      await this.database.put("pictures", { id: name, blob });
      this.#kept.set(name, blob);
    }
    return { at, chapters: chapters.map((chapter) => ({ ...chapter, blob: undefined })) };
  }

  /** Forget the files that the history has no more, once the draft is written. @param {?any} saved what `save` gave */
  async tidy(saved) {
    const wanted = new Set(saved?.chapters.map((/** @type {SourcedChapter} */ { id }) => this.#name(id)));
    for (const name of [...this.#kept.keys()].filter((one) => !wanted.has(one))) {
      await this.database.delete("pictures", name);
      this.#kept.delete(name);
    }
  }

  /**
   * @param {any} saved what `save` gave, or the one picture of an earlier version's draft
   * @returns {Promise<SourcedPast>} without the pictures that the browser has lost @throws {Error} it has none
   */
  async load(saved) {
    if (saved.blob) {
      const { steps, ...rest } = saved;
      const chapter = { id: newId(), ...rest, steps: steps.steps };
      return { at: chapter.steps.length, chapters: [chapter] };
    }
    const chapters = [];
    for (const chapter of saved.chapters) {
      const name = this.#name(chapter.id);
      const found = await this.database.get("pictures", name);
      if (found) this.#kept.set(name, found.blob);
      chapters.push({ ...chapter, blob: this.#kept.get(name) });
    }
    const past = only({ at: saved.at, chapters }, ({ blob }) => blob !== undefined);
    if (past.chapters.length === 0) throw new Error(t("This browser no longer has the picture."));
    return past;
  }

  /** @param {string} id */
  #name(id) {
    return `${this.workspace}/${id}`;
  }
}

/** The first picture, and the last ones up to where undo has gone back to, and one more. @param {SourcedPast} past */
function recent(past) {
  const now = indexAt(past);
  const end = Math.min(past.chapters.length, now + 2);
  const kept = new Set([past.chapters[0], ...past.chapters.slice(Math.max(0, end - MOST + 1), end)]);
  return only(past, (chapter) => kept.has(chapter));
}

/** The picture that is shown. @param {SourcedPast} past */
function indexAt({ at, chapters }) {
  let left = at;
  const index = chapters.findIndex(({ steps }) => (left -= steps.length + 1) < 0);
  return index < 0 ? chapters.length - 1 : index;
}

/**
 * The history with some of its pictures only.
 * @param {SourcedPast} past @param {(chapter: SourcedChapter) => boolean} isKept
 * @returns {SourcedPast}
 */
function only(past, isKept) {
  const before = past.chapters.slice(0, indexAt(past)).filter((chapter) => !isKept(chapter));
  const gone = before.reduce((sum, { steps }) => sum + steps.length + 1, 0);
  return { at: past.at - gone, chapters: past.chapters.filter(isKept) };
}
