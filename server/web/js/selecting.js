import { t } from "./i18n.js";

/** @typedef {import("./editor/hints.js").Hint} Hint */
/** @typedef {{methods: string[], missing: Record<string, string>}} SelectOffer */
/** @typedef {{picture: string, box: ?[number, number, number, number], mask: ?string}} Selected */
/** @typedef {Record<string, string|Blob>} Fields of `POST /v2/select`, but for the picture */

/** Selections that the server makes: a click, a box or a rough stroke becomes an object in the mask. */
export class Selecting {
  /** The server's names of pictures that it has seen. @type {WeakMap<Blob, string>} */
  #names = new WeakMap();
  /** Grows with each question: only the last one's answer counts. */
  #turn = 0;
  #aborting = new AbortController();
  /** "best", "smaller" or "larger" than that. */
  variant = "best";

  /**
   * @param {object} of
   * @param {import("./editor/editor.js").Editor} of.editor @param {import("./api.js").Api} of.api
   * @param {() => ?SelectOffer} of.offer what the server has; null before it has answered
   * @param {(text: string) => void} of.say @param {(error: unknown) => void} of.fail
   */
  constructor({ editor, api, offer, say, fail }) {
    this.editor = editor;
    this.api = api;
    this.offer = offer;
    this.say = say;
    this.fail = fail;
    editor.addEventListener("select", (event) => this.#pointed(/** @type {CustomEvent<Hint>} */ (event).detail));
    editor.addEventListener("tool", () => this.#prepare());
    editor.addEventListener("change", () => this.#prepare());
  }

  /** Select the main thing, or all but that. @param {"subject"|"background"} what */
  async choose(what) {
    await this.#select({ what }, this.editor.subtracting);
  }

  /** @param {Hint} hint */
  async #pointed({ tool, takesAway, point, box, stroke }) {
    /** @type {Fields} */
    const fields = { method: tool === "snap" ? "snap" : "auto", variant: this.variant };
    if (point) fields.points = JSON.stringify([[point.x, point.y, 1]]);
    if (box) fields.box = JSON.stringify([box.left, box.top, box.right, box.bottom]);
    if (stroke) fields.scribble = await this.editor.strokeBlob(stroke);
    await this.#select(fields, takesAway);
  }

  /** @param {Fields} fields @param {boolean} takesAway */
  async #select(fields, takesAway) {
    const { picture } = this.editor;
    if (!picture) return;
    const turn = ++this.#turn;
    this.#aborting.abort(); // the last click is the one that is meant
    this.#aborting = new AbortController();
    this.editor.asking = true;
    try {
      const answer = await this.#ask(picture.blob, fields, this.#aborting.signal);
      if (turn === this.#turn && this.editor.picture?.blob === picture.blob) this.#mark(answer, takesAway);
    } catch (error) {
      if (turn === this.#turn) this.fail(error);
    } finally {
      if (turn === this.#turn) this.editor.asking = false;
    }
  }

  /** @param {Selected} answer @param {boolean} takesAway */
  #mark({ box, mask }, takesAway) {
    if (!box || !mask) return this.say(t("Nothing was found there. Try a box, or a stroke over it."));
    const [left, top, right, bottom] = box;
    this.editor.select({ left, top, right, bottom }, `data:image/png;base64,${mask}`, takesAway);
  }

  /**
   * Ask with the picture's name, if it has one there, else with the file.
   * @param {Blob} blob @param {Fields} fields @param {AbortSignal} signal @returns {Promise<Selected>}
   */
  async #ask(blob, fields, signal) {
    const name = this.#names.get(blob);
    if (name) {
      try {
        return await this.api.select({ ...fields, picture: name }, signal);
      } catch (error) {
        if (/** @type {{status?: number}} */ (error).status !== 404) throw error;
        this.#names.delete(blob); // a server that was started again
      }
    }
    const answer = await this.api.select({ ...fields, image: blob }, signal);
    this.#names.set(blob, answer.picture);
    return answer;
  }

  /** Have the server ready before the first click. */
  async #prepare() {
    const { tool, picture } = this.editor;
    if (!picture || (tool !== "snap" && tool !== "click") || !this.offer() || this.#names.has(picture.blob)) return;
    const { blob } = picture;
    this.#names.set(blob, ""); // asked for; a click meanwhile sends the file
    try {
      this.#names.set(blob, (await this.api.select({ image: blob, prepare: "true" })).picture);
    } catch {
      this.#names.delete(blob); // the click will say what is wrong
    }
  }
}
