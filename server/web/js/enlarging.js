import { h, show } from "./dom.js";

const GAP = 8; // px between a thumbnail and its larger picture
const BEFORE_MS = 250; // a pointer that passes over a thumbnail is not asking for it

/** A larger picture of the thumbnail that the pointer rests on or that has the focus, above it. */
export class Enlarging {
  #image = h("img", { id: "enlarged", alt: "", hidden: true, "data-testid": "enlarged" });
  #url = "";
  #turn = 0;

  /** @param {HTMLElement} list of thumbnails @param {(id: string) => Promise<Blob>} picture of a thumbnail's result */
  constructor(list, picture) {
    this.picture = picture;
    document.body.append(this.#image);
    list.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.#over(event));
    list.addEventListener("pointerleave", () => this.hide());
    list.addEventListener("focusin", (event) => this.#over(event));
    list.addEventListener("focusout", () => this.hide());
    list.addEventListener("pointerdown", () => this.hide());
    list.addEventListener("scroll", () => this.hide());
    window.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
  }

  hide() {
    this.#turn += 1;
    show(this.#image, false);
  }

  /** @param {Event} event */
  async #over(event) {
    const button = /** @type {HTMLElement} */ (event.target).closest(".result");
    if (!(button instanceof HTMLElement)) return this.hide();
    if (event.type === "focusin" && !button.matches(":focus-visible")) return;
    const turn = ++this.#turn;
    await new Promise((resolve) => setTimeout(resolve, BEFORE_MS));
    if (turn !== this.#turn) return;
    const blob = await this.picture(button.dataset.id ?? "").catch(() => null);
    if (!blob || turn !== this.#turn) return;
    URL.revokeObjectURL(this.#url);
    this.#url = URL.createObjectURL(blob);
    this.#image.src = this.#url;
    await this.#image.decode().catch(() => {});
    if (turn === this.#turn) this.#place(button);
  }

  /** @param {HTMLElement} button */
  #place(button) {
    const { left, top, width } = button.getBoundingClientRect();
    show(this.#image, true);
    const most = window.innerWidth - this.#image.offsetWidth - GAP;
    this.#image.style.left = `${Math.max(GAP, Math.min(left + (width - this.#image.offsetWidth) / 2, most))}px`;
    this.#image.style.bottom = `${window.innerHeight - top + GAP}px`;
  }
}
