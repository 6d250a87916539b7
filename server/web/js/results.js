import { Bases } from "./bases.js";
import { context2d, toFile } from "./editor/canvas.js";
import { t } from "./i18n.js";
import { newId } from "./workspace.js";

/**
 * One painted picture. Its patch has a store of its own, see `patch`, and so has the picture around that, see `Bases`.
 * @typedef {object} Result
 * @property {string} id
 * @property {string} workspace
 * @property {string} batch of the painting that it belongs to
 * @property {number} at when it was painted
 * @property {number} seed
 * @property {number} [number] among those of its painting, from 1, if they are several
 * @property {string} path where the server has it, for as long as it does
 * @property {import("./bases.js").Place} [place] where it was painted; a result of an earlier version is a whole file
 * @property {[number, number, number, number]} [box] of its patch: left, top, right, bottom in the painted picture
 * @property {Blob} thumbnail of the patch
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
 * @property {Blob[]} blobs the patches
 */

const MOST = 40; // older ones make room
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
    this.bases = new Bases(database);
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
        thumbnail: await thumbnailOf(blob),
        id: newId(),
        workspace: order.workspace,
        batch: order.id,
        at: now - number, // the first of a batch comes first
        seed: answer.seeds[number],
        ...(blobs.length > 1 ? { number: number + 1 } : {}),
        path: paths[number],
        ...(order.place ? { place: order.place, box: answer.images[number].box } : {}),
        settings: { ...order.settings, seed: answer.seeds[number], model: answer.model },
        origin: order.origin,
        base: order.base,
        draft: answer.pace === "near" && !exact,
      })),
    );
    for (const [number, result] of made.entries()) await this.#keep(result, blobs[number]);
    if (order.workspace !== this.workspace) return made; // another one is shown: it will load them
    this.all = [...made, ...this.all.filter(({ id }) => made.every((one) => one.id !== id))];
    for (const old of this.all.slice(MOST)) await this.discard(old);
    this.#emit();
    return made;
  }

  /** The painted part's file, without loss. @param {Result} result @returns {Promise<Blob>} */
  async patch(result) {
    const unsaved = this.#unsaved.get(result.id);
    if (unsaved) return unsaved;
    const kept = await this.database.get("pictures", result.id);
    if (!kept) throw new Error(t("This browser no longer has the picture."));
    return kept.blob;
  }

  /**
   * Put the exact picture in the place of a draft; one that was discarded stays away.
   * @param {Result} result
   * @param {{path: string, blob: Blob, box: Result["box"], distanceDb: ?number|undefined}} exact `blob` is its patch
   * @returns {Promise<Result>} the same result, no longer a draft
   */
  async refine(result, { path, blob, box, distanceDb }) {
    const settings = { ...result.settings, pace: "exact" };
    const about = { path, box, settings, distanceDb, draft: false, exactId: null, wasDraft: true };
    const exact = { ...result, thumbnail: await thumbnailOf(blob), ...about };
    if (!this.all.some(({ id }) => id === result.id)) return exact;
    this.#unsaved.delete(result.id);
    await this.#keep(exact, blob);
    this.all = this.all.map((one) => (one.id === result.id ? exact : one));
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
    const blob = await this.patch(result);
    const { place } = result;
    this.all = this.all.filter(({ id }) => id !== result.id);
    const isLast = place && !this.all.some((other) => other.place?.basis === place.basis);
    if (isLast) await this.bases.get(place.basis).catch(() => null); // held, to be brought back
    this.#unsaved.delete(result.id);
    await this.database.delete("results", result.id);
    await this.database.delete("pictures", result.id);
    if (isLast) await this.bases.forget(place.basis);
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
      if (result.place) await this.bases.store(result.place.basis);
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
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return toFile(canvas, "image/webp", 0.85);
}
