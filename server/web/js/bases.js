/** @typedef {import("./editor/editor.js").OpenPicture} OpenPicture @typedef {import("./editor/rect.js").Rect} Rect */
/**
 * Where a painting's pictures are: on which picture, and how far that was extended.
 * @typedef {object} Place
 * @property {string} basis the picture's key, see `basisOf`
 * @property {number} left pixels that were added there
 * @property {number} top
 * @property {number} width of the painted picture
 * @property {number} height
 */

/**
 * The key of a picture that is painted on. A draft that was kept has the id of its exact picture, and another size.
 * @param {string} id of the working picture @param {Blob} blob
 */
export const basisOf = (id, blob) => `base-${id}-${blob.size}`;

/** The place of what is painted now. @param {string} id @param {OpenPicture} picture @param {Rect} extend @returns {Place} */
export function placeOn(id, picture, { left, top, right, bottom }) {
  const [width, height] = [picture.width + left + right, picture.height + top + bottom];
  return { basis: basisOf(id, picture.blob), left, top, width, height };
}

/** The pictures that results were painted on, each kept once, so that results need to keep their patches only. */
export class Bases {
  /** Those of this visit. @type {Map<string, Blob>} */
  #seen = new Map();
  /** Those that the database has. @type {Set<string>} */
  #stored = new Set();

  /** @param {import("./database.js").Database} database */
  constructor(database) {
    this.database = database;
  }

  /** Hold a picture as the browser shows it. @param {string} basis @param {Blob} blob */
  hold(basis, blob) {
    this.#seen.set(basis, blob);
  }

  /** Write a picture down that results need. @param {string} basis @throws {Error} the browser has no room */
  async store(basis) {
    const blob = this.#seen.get(basis);
    if (!blob || this.#stored.has(basis)) return;
    await this.database.put("pictures", { id: basis, blob });
    this.#stored.add(basis);
  }

  /** @param {string} basis @returns {Promise<Blob>} */
  async get(basis) {
    const blob = this.#seen.get(basis) ?? (await this.database.get("pictures", basis))?.blob;
    if (!blob) throw new Error("This browser no longer has the picture that this was painted on.");
    this.#seen.set(basis, blob);
    return blob;
  }

  /** Delete a picture that no result needs any more. @param {string} basis */
  async forget(basis) {
    this.#stored.delete(basis);
    await this.database.delete("pictures", basis);
  }
}
