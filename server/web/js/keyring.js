import { byId, show } from "./dom.js";

const NAME = "inpaint-key";

/**
 * The key that the server wants, if it wants one. Kept for this tab; on the device only where that was asked for.
 * Never in a cookie, which the browser would send along with other sites' forms.
 */
export class Keyring {
  #dialog = byId("key-dialog");
  /** @type {?Promise<boolean>} */
  #asking = null;

  get key() {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
  }

  /**
   * Ask for a key, unless another than the refused one is there by now.
   * @param {?string} refused @param {string} reason the server's sentence
   * @returns {Promise<boolean>} whether there is another key to try
   */
  async ask(refused, reason) {
    if (this.key !== refused) return true;
    this.#asking ??= this.#prompt(refused ? reason : "").finally(() => (this.#asking = null));
    return this.#asking;
  }

  /** Ask for another key, although none was refused. */
  change() {
    return this.ask(this.key, "");
  }

  /** @param {string} reason @returns {Promise<boolean>} */
  #prompt(reason) {
    const [input, remember, problem] = ["key", "key-remember", "key-problem"].map(byId);
    input.value = "";
    remember.checked = localStorage.getItem(NAME) !== null;
    problem.textContent = reason;
    show(problem, reason !== "");
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    return new Promise((resolve) => {
      const closed = () => {
        const key = input.value.trim();
        const given = this.#dialog.returnValue === "use" && key !== "";
        if (given) keep(key, remember.checked);
        input.value = "";
        resolve(given);
      };
      this.#dialog.addEventListener("close", closed, { once: true });
    });
  }
}

/** @param {string} key @param {boolean} onDevice */
function keep(key, onDevice) {
  sessionStorage.setItem(NAME, key);
  if (onDevice) localStorage.setItem(NAME, key);
  else localStorage.removeItem(NAME);
}
