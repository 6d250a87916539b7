import { ApiError } from "./api.js";
import { byId, set } from "./dom.js";
import { t } from "./i18n.js";
import { modelOf } from "./models.js";

/** @typedef {import("./api.js").Offer} Offer */

const AGAIN_MS = 2000; // while the model is being loaded, or the server does not answer
const IDLE_MS = 5000; // while all is well, so that a server that has gone is noticed before Paint is pressed
const PATIENCE_MS = 10_000; // for an answer

/**
 * The server's offer and state, asked for again and again while the page is seen. Emits "offer" when the fields are
 * known, and "back" when the server answers again.
 */
export class Connection extends EventTarget {
  /** @type {?Offer} */
  offer = null;
  /** @type {string|undefined} */
  #model;
  #timer = 0;
  #turn = 0; // of several answers the last one asked for counts
  #state = byId("server-state");

  /** @param {import("./api.js").Api} api @param {(error: unknown) => void} fail */
  constructor(api, fail) {
    super();
    this.api = api;
    this.fail = fail;
  }

  /** Ask now, and again from time to time. */
  async connect() {
    clearTimeout(this.#timer);
    const turn = ++this.#turn;
    try {
      const offer = await this.api.offer(AbortSignal.timeout(PATIENCE_MS));
      if (turn === this.#turn) this.#take(offer);
    } catch (error) {
      if (turn === this.#turn) this.#refused(error);
    }
  }

  /** @param {Offer} offer */
  #take(offer) {
    const isNew = JSON.stringify(this.offer?.models) !== JSON.stringify(offer.models);
    const isBack = this.#state.dataset.state === "unreachable";
    this.offer = offer;
    if (isNew) this.dispatchEvent(new Event("offer"));
    this.#showModel();
    if (isBack) this.dispatchEvent(new Event("back"));
    if (offer.models.every(({ ready }) => ready)) this.#later(IDLE_MS, () => this.#probe());
    else this.#later(AGAIN_MS);
  }

  /** Ask only whether all is still well. */
  async #probe() {
    try {
      await this.api.ready(AbortSignal.timeout(PATIENCE_MS));
      this.#later(IDLE_MS, () => this.#probe());
    } catch {
      this.connect(); // which says what is wrong
    }
  }

  /** The name of the model whose state is shown. @param {string|undefined} name */
  set model(name) {
    this.#model = name;
    if (this.#state.dataset.state !== "unreachable") this.#showModel();
  }

  #showModel() {
    if (!this.offer) return;
    const { name, ready } = modelOf(this.offer, this.#model);
    const [state, words] = ready ? ["ready", t("ready")] : ["loading", t("the model is being loaded")];
    this.#show(state, `${name} · ${words}`);
  }

  /** @param {unknown} error */
  #refused(error) {
    const offline = error instanceof ApiError && error.status === 0;
    this.#show("unreachable", offline ? t("no answer from the server") : t("the server refuses"));
    if (offline) this.#later(AGAIN_MS);
    else this.fail(error);
  }

  /** @param {number} ms @param {() => void} ask */
  #later(ms, ask = () => this.connect()) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => whenSeen(ask), ms);
  }

  /** @param {string} state @param {string} text */
  #show(state, text) {
    set(this.#state, "data-state", state);
    this.#state.textContent = text;
  }
}

/** Ask once the page is seen: one in the background asks for nothing. @param {() => void} ask */
function whenSeen(ask) {
  if (document.visibilityState === "visible") ask();
  else document.addEventListener("visibilitychange", () => whenSeen(ask), { once: true });
}
