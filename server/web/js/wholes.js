import { ApiError } from "./api.js";
import { basisOf } from "./bases.js";
import { context2d, toFile } from "./editor/canvas.js";
import { t } from "./i18n.js";

/** @typedef {import("./results.js").Result} Result */
/** A whole picture's file; `exact` unless the browser composed it, which keeps no profile, settings or 16 bits.
 * @typedef {{blob: Blob, exact: boolean}} Whole */

const MOST_TRIES = 3;
const WITHOUT_SERVER = [0, 404, 503]; // it does not answer, has the picture no longer, or has no room

/** Whole pictures of results: the server's file, which it makes when it is asked for, else composed in the browser. */
export class Wholes {
  /** The latest one. @type {?{result: Result, path: string, blob: Blob}} */
  #latest = null;

  /**
   * @param {import("./api.js").Api} api @param {import("./results.js").Results} results
   * @param {import("./pictures.js").Pictures} pictures
   */
  constructor(api, results, pictures) {
    this.api = api;
    this.results = results;
    this.pictures = pictures;
  }

  /** A result's file, to be painted on. @param {Result} result @returns {Promise<Whole>} */
  async file(result) {
    if (!result.place) return { blob: await this.results.patch(result), exact: true }; // of an earlier version
    if (this.#latest?.path === result.path) return { blob: this.#latest.blob, exact: true };
    try {
      const blob = await this.fetch(result.path);
      this.#latest = { result, path: result.path, blob };
      return { blob, exact: true };
    } catch (error) {
      if (!isWithoutServer(error)) throw error;
    }
    const { result: kept, editor } = this.pictures;
    if (kept?.path === result.path && editor.picture) return { blob: editor.picture.blob, exact: true };
    return { blob: await toFile(await this.composed(result), "image/png", 1), exact: false };
  }

  /** A file from the server, which may be making others. @param {string} path @param {?string} [format] */
  async fetch(path, format = null) {
    for (let tries = 1; ; tries++) {
      try {
        return await this.api.picture(path, format);
      } catch (error) {
        const again = error instanceof ApiError && error.status === 503 && error.retryAfterS !== null;
        if (!again || tries === MOST_TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, 1000 * Number(error.retryAfterS)));
      }
    }
  }

  /**
   * What is laid over the working picture to see a result: its patch and the place of that, or all of it if it was
   * painted on another picture.
   * @param {Result} result @returns {Promise<{bitmap: ImageBitmap, rect: ?import("./editor/rect.js").Rect}>}
   */
  async overlay(result) {
    const { place, box } = result;
    const { blob } = this.pictures.editor.picture ?? {};
    if (!place || !box) return { bitmap: await createImageBitmap(await this.results.patch(result)), rect: null };
    if (!blob || basisOf(this.pictures.id, blob) !== place.basis) {
      return { bitmap: await createImageBitmap(await this.#whole(result)), rect: null };
    }
    const [left, top, right, bottom] = box;
    const rect = { left: left - place.left, top: top - place.top, right: right - place.left, bottom: bottom - place.top };
    return { bitmap: await createImageBitmap(await this.results.patch(result)), rect };
  }

  /** @param {Result} result @returns {Promise<HTMLCanvasElement|Blob>} */
  async #whole(result) {
    try {
      return await this.composed(result);
    } catch {
      return (await this.file(result)).blob; // the browser has the patch only
    }
  }

  /** Compose a picture of a patch and the picture that it was painted on. @param {Result} result */
  async composed(result) {
    const { place, box } = result;
    if (!place || !box) throw new Error(t("This browser no longer has the picture."));
    const [base, patch] = await Promise.all([
      this.results.bases.get(place.basis).then((blob) => createImageBitmap(blob)),
      this.results.patch(result).then((blob) => createImageBitmap(blob)),
    ]);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [place.width, place.height];
    const context = context2d(canvas);
    context.drawImage(base, place.left, place.top);
    const [left, top, right, bottom] = box;
    context.clearRect(left, top, right - left, bottom - top);
    context.drawImage(patch, left, top);
    for (const bitmap of [base, patch]) bitmap.close();
    return canvas;
  }
}

/** True if the browser has to make the file itself. @param {unknown} error */
export const isWithoutServer = (error) => error instanceof ApiError && WITHOUT_SERVER.includes(error.status);
