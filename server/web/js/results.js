import { context2d, toFile } from "./editor/canvas.js";
import { newId } from "./workspace.js";

/**
 * One painted picture. Its file has a store of its own, see `file`.
 * @typedef {object} Result
 * @property {string} id
 * @property {string} workspace
 * @property {string} batch of the painting that it belongs to
 * @property {number} at when it was painted
 * @property {number} seed
 * @property {number} width
 * @property {number} height
 * @property {string} path where the server has it, for as long as it does
 * @property {Blob} thumbnail
 * @property {Record<string, unknown>} settings that it was painted with
 * @property {{name: string, type: string}} origin the file that it all began with
 * @property {string} [base] the picture that it was painted on, see `Pictures`
 * @property {boolean} draft it was painted nearly exactly
 * @property {?string} [exactId] the request that is painting it exactly
 * @property {boolean} [refused] the server would not paint it exactly
 * @property {boolean} [wasDraft] the exact picture of a draft
 * @property {?number} [distanceDb] of the draft from it; null: they are equal
 *
 * @typedef {object} Painted what a painting has brought
 * @property {any} answer the server's
 * @property {import("./job.js").Order} order
 * @property {string[]} paths where the server has the pictures
 * @property {Blob[]} blobs
 */

const MOST = 40; // older ones make room: a photograph's PNG has some 20 MB
const SIDE = 176; // px of a thumbnail: shown at half of it

/**
 * The results of one workspace, newest first; they survive a reload. Emits "change", and "unsaved" where the browser
 * has no room: they are there until the page is closed.
 */
export class Results extends EventTarget {
  /** Files that the browser would not keep. @type {Map<string, Blob>} */
  #unsaved = new Map();
  /** @type {Result[]} */
  all = [];

  /** @param {import("./database.js").Database} database @param {string} workspace */
  constructor(database, workspace) {
    super();
    this.database = database;
    this.workspace = workspace;
  }

  async load() {
    this.all = (await this.database.list("results", this.workspace)).sort(newestFirst);
    this.#emit();
  }

  /** @param {Painted} painted */
  async add({ answer, order, paths, blobs }) {
    const now = Date.now();
    // The server says so where the settings allow no draft.
    const exact = answer.warnings.some((/** @type {string} */ text) => text.startsWith("pace:"));
    const made = await Promise.all(
      blobs.map(async (blob, number) => ({
        ...(await thumbnailOf(blob)),
        id: newId(),
        workspace: this.workspace,
        batch: order.id,
        at: now - number, // the first of a batch comes first
        seed: answer.seeds[number],
        path: paths[number],
        settings: { ...order.settings, seed: answer.seeds[number], model: answer.model },
        origin: order.origin,
        base: order.base,
        draft: answer.pace === "near" && !exact,
      })),
    );
    for (const [number, result] of made.entries()) await this.#keep(result, blobs[number]);
    this.all = [...made, ...this.all];
    for (const old of this.all.slice(MOST)) await this.discard(old);
    this.#emit();
    return this.all.slice(0, made.length);
  }

  /** The picture's file. @param {Result} result @returns {Promise<Blob>} */
  async file(result) {
    const unsaved = this.#unsaved.get(result.id);
    if (unsaved) return unsaved;
    const kept = await this.database.get("pictures", result.id);
    if (!kept) throw new Error("This browser no longer has the picture.");
    return kept.blob;
  }

  /**
   * Put the exact picture in the place of a draft; one that was discarded stays away.
   * @param {Result} result
   * @param {{path: string, blob: Blob, distanceDb: ?number|undefined}} exact
   * @returns {Promise<Result>} the same result, no longer a draft
   */
  async refine(result, { path, blob, distanceDb }) {
    const settings = { ...result.settings, pace: "exact" };
    const about = { path, settings, distanceDb, draft: false, exactId: null, wasDraft: true };
    const exact = { ...result, ...(await thumbnailOf(blob)), ...about };
    if (!this.all.includes(result)) return exact;
    this.#unsaved.delete(result.id);
    await this.#keep(exact, blob);
    this.all = this.all.map((one) => (one === result ? exact : one));
    this.#emit();
    return exact;
  }

  /** Change what is known of a result. @param {Result} result @param {Partial<Result>} about */
  async note(result, about) {
    Object.assign(result, about);
    if (!this.all.includes(result)) return;
    if (!this.#unsaved.has(result.id)) await this.database.put("results", result).catch(() => {});
    this.#emit();
  }

  /** @param {Result} result @returns {Promise<() => Promise<void>>} what brings it back */
  async discard(result) {
    const blob = await this.file(result);
    this.#unsaved.delete(result.id);
    await this.database.delete("results", result.id);
    await this.database.delete("pictures", result.id);
    this.all = this.all.filter(({ id }) => id !== result.id);
    this.#emit();
    return async () => {
      await this.#keep(result, blob);
      this.all = [...this.all, result].sort(newestFirst);
      this.#emit();
    };
  }

  /** @param {Result} result @param {Blob} blob */
  async #keep(result, blob) {
    try {
      await this.database.put("pictures", { id: result.id, blob });
      await this.database.put("results", result);
    } catch {
      this.#unsaved.set(result.id, blob);
      this.dispatchEvent(new Event("unsaved"));
    }
  }

  #emit() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {Result} a @param {Result} b */
const newestFirst = (a, b) => b.at - a.at;

/** @param {Blob} blob */
async function thumbnailOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const thumbnail = await toFile(canvas, "image/webp", 0.85);
  return { width, height, thumbnail };
}
