/** @typedef {import("./job.js").Job} Job */

/**
 * The preview on the picture: that of the job that is being painted, if it is painted on the picture that is open and
 * no result is looked at. What is drawn meanwhile is seen over it.
 */
export class Previewing {
  /** @type {?{job: Job, bitmap: ImageBitmap}} */
  #last = null;
  #shown = false;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
  }

  /** @param {{job: Job, url: string}} preview `url`: a PNG, as data */
  async take({ job, url }) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const bitmap = await createImageBitmap(image);
    if (!job.running || job !== this.app.painting.front) return bitmap.close();
    this.#last?.bitmap.close();
    this.#last = { job, bitmap };
    this.show();
  }

  /** Show or hide it, as things are now. */
  show() {
    const { editor, film, painting, pictures } = this.app;
    if (this.#last && this.#last.job !== painting.front) {
      this.#last.bitmap.close();
      this.#last = null;
    }
    const order = this.#last?.job.order;
    const seen = order !== undefined && order.base === pictures.id && film.selected === null;
    if (this.#last && seen && order.target) editor.preview(this.#last.bitmap, order.target);
    else if (this.#shown) editor.preview(null);
    this.#shown = seen;
  }
}
