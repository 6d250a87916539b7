import { byId, save } from "./dom.js";
import { t } from "./i18n.js";
import { openRaster } from "./openraster.js";
import { asPng, painted } from "./painted.js";

/** @typedef {import("./results.js").Result} Result @typedef {import("./openraster.js").Layer} Layer */

/** What else can be saved than the picture: the mask, a result's patch, layers; and the clipboard. */
export class Saving {
  #menu = byId("save-menu");
  #button = byId("save-as");

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
    const actions = { mask: this.#mask, patch: this.#patch, layers: this.#layers, copy: this.#copy };
    for (const [name, action] of Object.entries(actions)) {
      byId(`save-${name}`).addEventListener("click", () => {
        this.#menu.hidePopover();
        app.attempt(() => action.call(this));
      });
    }
    this.#menu.addEventListener("toggle", (/** @type {ToggleEvent} */ event) => this.#place(event));
  }

  /** Put the menu under its button. @param {ToggleEvent} event */
  #place({ newState }) {
    if (newState !== "open") return;
    const { right, bottom } = this.#button.getBoundingClientRect();
    this.#menu.style.top = `${bottom + 4}px`;
    this.#menu.style.left = `${Math.max(8, right - this.#menu.offsetWidth)}px`;
  }

  get #stem() {
    return this.app.pictures.origin.name.replace(/\.[^.]*$/, "");
  }

  async #mask() {
    const { editor } = this.app;
    if (editor.isEmpty) throw new Error(t("There is no mask yet: paint over what should change."));
    save(await editor.maskBlob(), `${this.#stem}_mask.png`);
  }

  async #patch() {
    const selected = this.app.film.selected;
    if (!selected) throw new Error(t("Select a result first."));
    const patch = await this.#patchOf(selected);
    if (!patch) throw new Error(t("This result is the picture itself: nothing was painted."));
    save(patch.png, `${this.#stem}_patch_${selected.seed}_x${patch.x}_y${patch.y}.png`);
  }

  async #copy() {
    if (!navigator.clipboard || !window.ClipboardItem) {
      throw new Error(t("This browser lets a page copy pictures only over https or from this machine."));
    }
    const result = this.app.film.selected ?? this.app.pictures.result;
    // A promise, because the browser wants to be asked while the button is being pressed.
    const png = result ? this.#whole(result) : this.#background();
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
    this.app.notices.say(t("The picture is on the clipboard."));
  }

  /** The picture below, and the variations of the selected result above it; that one is seen. */
  async #layers() {
    const { picture } = this.app.editor;
    if (!picture) throw new Error(t("Open a picture first."));
    const { selected } = this.app.film;
    const { width, height } = selected?.place ?? picture;
    const layers = selected ? await this.#variations(selected) : [];
    const below = await this.#below(selected);
    if (below) layers.push({ name: this.app.pictures.origin.name, ...below, visible: true });
    const merged = selected ? await this.#whole(selected) : await this.#background();
    save(await openRaster(width, height, layers, merged), `${this.#stem}_layers.ora`);
  }

  /** @param {Result} selected @returns {Promise<Layer[]>} what was painted with it, each a layer */
  async #variations(selected) {
    const layers = [];
    for (const result of this.app.results.all.filter((one) => one.batch === selected.batch)) {
      const name = t("Seed {seed}: {prompt}", { seed: result.seed, prompt: String(result.settings.prompt ?? "") });
      const patch = await this.#patchOf(result);
      if (patch) layers.push({ name, visible: result.id === selected.id, ...patch });
    }
    return layers;
  }

  /**
   * The picture that a result was painted on, which need not be the working picture any more.
   * @param {?Result} result null for the working picture @returns {Promise<?import("./painted.js").Patch>}
   */
  async #below(result) {
    if (!result) return { png: await this.#background(), x: 0, y: 0 };
    const { place } = result;
    if (!place) return null; // of an earlier version: the result is all of it
    const bitmap = await createImageBitmap(await this.app.results.bases.get(place.basis));
    const png = await asPng(bitmap);
    bitmap.close();
    return { png, x: place.left, y: place.top };
  }

  /** What a result has changed; all of its box where the picture was extended. @param {Result} result */
  async #patchOf(result) {
    const { place, box } = result;
    if (!place || !box) return { png: await this.#whole(result), x: 0, y: 0 }; // of an earlier version
    const [x, y, right, bottom] = box;
    const file = await this.app.results.patch(result);
    const base = await createImageBitmap(await this.app.results.bases.get(place.basis));
    if (base.width !== place.width || base.height !== place.height) return (base.close(), { png: file, x, y });
    const over = await createImageBitmap(file);
    const under = await createImageBitmap(base, x, y, right - x, bottom - y);
    base.close();
    const patch = await painted(over, under);
    over.close();
    under.close();
    return patch && { ...patch, x: x + patch.x, y: y + patch.y };
  }

  /** @param {Result} result */
  async #whole(result) {
    return (await this.app.wholes.file(result)).blob;
  }

  async #background() {
    const { picture } = this.app.editor;
    if (!picture) throw new Error(t("Open a picture first."));
    const bitmap = await createImageBitmap(picture.shown);
    const png = await asPng(bitmap);
    bitmap.close();
    return png;
  }
}
