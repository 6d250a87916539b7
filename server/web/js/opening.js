import { byId, show } from "./dom.js";
import { formatOf } from "./editor/formats.js";
import { DRAG_TYPE } from "./film.js";
import { t } from "./i18n.js";
import { nameOfUrl, readUrl, rewritten } from "./sources.js";
import { TYPING } from "./shortcuts.js";

/**
 * @typedef {object} Handlers
 * @property {(blob: Blob, name: string) => void} picture
 * @property {(blob: Blob) => void} mask
 * @property {(id: string) => void} result one that was dragged from the strip
 * @property {() => boolean} hasPicture
 * @property {(source: Blob|string) => Promise<Blob>} displayable a file or URL as a file that the browser can show
 * @property {(text: string) => void} say
 * @property {(action: () => Promise<void>) => Promise<void>} attempt an action whose errors are shown
 */

const PASTED = "pasted.png";
const SAVED_AS_JPEG = new Set(["avif", "heic"]);

/** Files and URLs by picker, drop or paste. */
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
    this.#picker.addEventListener("change", () => this.#picked(this.#picker, (file) => this.#picture(file, file.name)));
    this.#maskPicker.addEventListener("change", () => this.#picked(this.#maskPicker, (file) => this.#mask(file)));
    document.addEventListener("dragenter", (event) => this.#enter(event));
    document.addEventListener("dragleave", () => this.#leave());
    document.addEventListener("dragover", (event) => over(event));
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

  /** Open a file; one that the server does not read is written again. @param {Blob} file @param {string} name */
  async #picture(file, name) {
    const { handlers } = this;
    await handlers.attempt(async () => {
      const format = await formatOf(file).catch(() => null); // the editor says what is wrong with it
      if (format !== "bmp" && format !== "gif") {
        if (format && SAVED_AS_JPEG.has(format)) handlers.say(t("Results of {name} are saved as JPEG.", { name }));
        return handlers.picture(file, name);
      }
      const png = await rewritten(file);
      handlers.say(t("{name} is opened as a PNG of its first picture.", { name }));
      handlers.picture(png, name.replace(/\.\w+$/, "") + ".png");
    });
  }

  /** @param {Blob} file */
  #mask(file) {
    return this.handlers.attempt(async () => {
      const format = await formatOf(file);
      const needsServer = format === "tiff" || format === "heic";
      this.handlers.mask(needsServer ? await this.handlers.displayable(file) : file);
    });
  }

  /** Have the server fetch a picture, since the page asks no other host. @param {string} url @param {boolean} asMask */
  #url(url, asMask = false) {
    return this.handlers.attempt(async () => {
      this.handlers.say(t("The server is fetching the picture…"));
      const blob = await this.handlers.displayable(url);
      if (asMask) await this.#mask(blob);
      else await this.#picture(blob, nameOfUrl(url, blob.type));
    });
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
    if (isText(event)) return;
    event.preventDefault(); // else the browser would leave the page for what was dropped
    const { dataTransfer } = event;
    const id = dataTransfer?.getData(DRAG_TYPE);
    const file = dataTransfer?.files[0];
    const url = readUrl(dataTransfer?.getData("text/uri-list") || dataTransfer?.getData("text/plain"));
    const asMask = byId("drop-mask").contains(/** @type {Node} */ (event.target));
    if (id) this.handlers.result(id);
    else if (file && asMask) this.#mask(file);
    else if (file) this.#picture(file, file.name);
    else if (url) this.#url(url, asMask);
    else this.handlers.say(t("What was dropped is neither a picture nor a link to one."));
  }

  /** @param {ClipboardEvent} event */
  #paste(event) {
    const data = event.clipboardData;
    const file = [...(data?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    const typing = event.target instanceof Element && event.target.closest(TYPING);
    const url = typing ? null : readUrl(data?.getData("text/plain"));
    if (!file && !url) return; // text goes where it is pasted
    event.preventDefault();
    if (file) this.#picture(file, file.name === "image.png" ? PASTED : file.name);
    else if (url) this.#url(url);
  }
}

/** True if what is dragged can be opened here; a selection of text cannot. @param {DragEvent} event */
function carries(event) {
  const types = event.dataTransfer?.types ?? [];
  return ["Files", DRAG_TYPE, "text/uri-list"].some((type) => types.includes(type)) && !isText(event);
}

/** True if text is dragged over a field that takes it. @param {DragEvent} event */
function isText(event) {
  const types = event.dataTransfer?.types ?? [];
  const field = event.target instanceof Element && event.target.closest(TYPING);
  return field && !types.includes("Files") && !types.includes(DRAG_TYPE);
}

/** Take what can be opened, and keep the browser from opening anything else. @param {DragEvent} event */
function over(event) {
  if (isText(event)) return;
  event.preventDefault();
  if (event.dataTransfer && !carries(event)) event.dataTransfer.dropEffect = "none";
}
