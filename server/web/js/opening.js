import { byId, show } from "./dom.js";
import { DRAG_TYPE } from "./film.js";

/**
 * @typedef {object} Handlers
 * @property {(blob: Blob, name: string) => void} picture
 * @property {(blob: Blob) => void} mask
 * @property {(id: string) => void} result one that was dragged from the strip
 * @property {() => boolean} hasPicture
 */

const PASTED = "pasted.png";

/** Files by picker, drop or paste. */
export class Opening {
  /** @type {HTMLInputElement} */
  #picker = byId("picture-picker");
  /** @type {HTMLInputElement} */
  #maskPicker = byId("mask-picker");
  #zones = byId("drop-zones");
  #inside = 0;

  /** @param {Handlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.#picker.addEventListener("change", () => this.#picked(this.#picker, (f) => handlers.picture(f, f.name)));
    this.#maskPicker.addEventListener("change", () => this.#picked(this.#maskPicker, (f) => handlers.mask(f)));
    document.addEventListener("dragenter", (event) => this.#enter(event));
    document.addEventListener("dragleave", () => this.#leave());
    document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    document.addEventListener("drop", (event) => this.#drop(event));
    document.addEventListener("paste", (event) => this.#paste(event));
  }

  choosePicture() {
    this.#picker.click();
  }

  chooseMask() {
    this.#maskPicker.click();
  }

  /** @param {HTMLInputElement} input @param {(file: File) => void} use */
  #picked(input, use) {
    const file = input.files?.[0];
    input.value = ""; // so that the same file can be chosen again
    if (file) use(file);
  }

  /** @param {DragEvent} event */
  #enter(event) {
    if (!carries(event)) return;
    event.preventDefault();
    this.#inside += 1;
    show(this.#zones, true);
    const onlyPicture = !this.handlers.hasPicture() || event.dataTransfer?.types.includes(DRAG_TYPE);
    show(byId("drop-mask"), !onlyPicture);
  }

  /** Count a leave; enters and leaves balance when the pointer is outside. */
  #leave() {
    this.#inside = Math.max(0, this.#inside - 1);
    if (this.#inside === 0) show(this.#zones, false);
  }

  /** @param {DragEvent} event */
  #drop(event) {
    this.#inside = 0;
    show(this.#zones, false);
    if (!carries(event)) return;
    event.preventDefault();
    const id = event.dataTransfer?.getData(DRAG_TYPE);
    const file = event.dataTransfer?.files[0];
    if (id) this.handlers.result(id);
    else if (file && byId("drop-mask").contains(event.target)) this.handlers.mask(file);
    else if (file) this.handlers.picture(file, file.name);
  }

  /** @param {ClipboardEvent} event */
  #paste(event) {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return; // text goes where it is pasted
    event.preventDefault();
    this.handlers.picture(file, file.name === "image.png" ? PASTED : file.name);
  }
}

/** True if what is dragged can be opened here; a selection of text cannot. @param {DragEvent} event */
function carries(event) {
  const types = event.dataTransfer?.types ?? [];
  return types.includes("Files") || types.includes(DRAG_TYPE);
}
