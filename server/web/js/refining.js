import { ApiError, picturePath } from "./api.js";
import { t } from "./i18n.js";
import { follow } from "./stream.js";
import { newId } from "./workspace.js";

/** @typedef {import("./results.js").Result} Result */

/**
 * Drafts that were kept, painted again exactly: same seed, same settings, in their place. Nothing here takes a draft
 * away before its exact picture is there. Emits "failed" (detail: result, error).
 */
export class Refining extends EventTarget {
  /** By the result's id. @type {Map<string, Promise<void>>} */
  #running = new Map();

  /**
   * @param {import("./api.js").Api} api @param {import("./results.js").Results} results
   * @param {(result: Result) => Promise<void>} place puts an exact picture where its draft is shown
   */
  constructor(api, results, place) {
    super();
    this.api = api;
    this.results = results;
    this.place = place;
  }

  get running() {
    return this.#running.size > 0;
  }

  /** Wait until none is under way; a draft that could not be painted exactly is none. */
  async settled() {
    await Promise.all(this.#running.values());
  }

  /** Paint a draft exactly; nothing happens to a result that is none. @param {Result} result */
  begin(result) {
    if (!result.draft || this.#running.has(result.id)) return;
    const work = this.#run(result).finally(() => this.#running.delete(result.id));
    this.#running.set(result.id, work);
  }

  /** Go on with those that a reload interrupted, `kept` among them, the working picture. @param {?Result} kept */
  resume(kept) {
    for (const result of this.results.all) {
      if (result.exactId || (result.id === kept?.id && !result.refused)) this.begin(result);
    }
  }

  /** @param {Result} result */
  async #run(result) {
    try {
      if (!result.exactId) {
        const exactId = await this.api.refine(result.batch, result.seed, newId());
        await this.results.note(result, { exactId, refused: false });
      }
      const id = /** @type {string} */ (result.exactId);
      const { images, distance_db: distances } = await this.#answer(id);
      const path = picturePath(id, 0, images[0].url);
      const blob = await this.api.picture(result.place ? `${path}&crop=box` : path);
      const { box } = images[0];
      const exact = await this.results.refine(result, { path, blob, box, distanceDb: distances?.[0] });
      await this.place(exact);
    } catch (error) {
      await this.results.note(result, { exactId: null, refused: true });
      this.dispatchEvent(new CustomEvent("failed", { detail: { result, error } }));
    }
  }

  /** @param {string} id of the request @returns {Promise<any>} the server's answer, once it is painted */
  async #answer(id) {
    const { signal } = new AbortController(); // never aborted: the picture is wanted whatever is done meanwhile
    for await (const { event, data } of follow(this.api, id, signal, () => {})) {
      if (event === "done") return data;
      if (event === "failed") throw new ApiError(data.error ?? t("The picture was not painted."), 500);
    }
  }
}

const HARDLY_SEEN_DB = 45;
const DETAIL_DB = 35;

/** What is known of a result's exactness, in a sentence; "" for one that was exact from the start. @param {Result} result */
export function noteOf({ draft, exactId, wasDraft, distanceDb, settings }) {
  if (exactId) return t("A draft; it is being painted exactly.");
  if (draft) return t("A draft, nearly exact. Keep paints it exactly.");
  if (!wasDraft) return settings.pace === "near" ? t("Exact: with these settings there are no drafts.") : "";
  if (distanceDb === undefined) return t("Exact.");
  if (distanceDb === null) return t("Exact. Its draft was the same to the last bit.");
  const distance = distanceDb.toFixed(1);
  if (distanceDb >= HARDLY_SEEN_DB) {
    return t("Exact. Its draft was {distance} dB away, a difference that is hardly seen.", { distance });
  }
  if (distanceDb >= DETAIL_DB) {
    return t("Exact. Its draft was {distance} dB away, a small difference in fine detail.", { distance });
  }
  return t("Exact. Its draft was {distance} dB away, a difference that is seen.", { distance });
}

/** Why a draft stays one, in a sentence. @param {unknown} error */
export function whyDraft(error) {
  const gone = error instanceof ApiError && error.status === 404;
  const { message } = /** @type {Error} */ (error);
  const why = gone ? t("the server no longer has what it was painted from.") : message;
  return t("The kept picture stays a draft: {why}", { why });
}
