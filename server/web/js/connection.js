import { ApiError } from "./api.js";
import { byId, set } from "./dom.js";
import { modelOf } from "./models.js";

/** @typedef {import("./api.js").Offer} Offer */

const AGAIN_MS = 2000; // while the model is being loaded, or the server does not answer

/** The server's offer and state, asked for until the model is loaded. Emits "offer" when the fields are known. */
export class Connection extends EventTarget {
  /** @type {?Offer} */
  offer = null;
  /** @type {string|undefined} */
  #model;
  #timer = 0;
  #state = byId("server-state");

  /** @param {import("./api.js").Api} api @param {(error: unknown) => void} fail */
  constructor(api, fail) {
    super();
    this.api = api;
    this.fail = fail;
  }

  /** Ask now, and again until it is ready. */
  async connect() {
    clearTimeout(this.#timer);
    try {
      const offer = await this.api.offer();
      const isNew = JSON.stringify(this.offer?.models) !== JSON.stringify(offer.models);
      this.offer = offer;
      if (isNew) this.dispatchEvent(new Event("offer"));
      this.#showModel();
      if (offer.models.some(({ ready }) => !ready)) this.#later();
    } catch (error) {
      this.#refused(error);
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
    const [state, words] = ready ? ["ready", "ready"] : ["loading", "the model is being loaded"];
    this.#show(state, `${name} · ${words}`);
  }

  /** @param {unknown} error */
  #refused(error) {
    const offline = error instanceof ApiError && error.status === 0;
    this.#show("unreachable", offline ? "no answer from the server" : "the server refuses");
    if (offline) this.#later();
    else this.fail(error);
  }

  #later() {
    this.#timer = setTimeout(() => this.connect(), AGAIN_MS);
  }

  /** @param {string} state @param {string} text */
  #show(state, text) {
    set(this.#state, "data-state", state);
    this.#state.textContent = text;
  }
}
