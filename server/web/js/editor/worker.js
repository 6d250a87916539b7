// What takes too long for the page itself, in a thread of its own.
import { Mask } from "./mask.js";
import { grown } from "./morphology.js";
import { strokeAll } from "./ops.js";
import { readGrey, readPixels } from "./pixels.js";
import { encodeGrey } from "./png.js";

/** @typedef {import("./background.js").Question} Question */

/** @type {?{key: number, wand: import("./wand.js").Wand}} the last picture that was asked about */
let known = null;

/** @param {Question} question @returns {Promise<any>} */
async function answer(question) {
  if (question.kind === "grow") return grown(question.region, question.px);
  if (question.kind === "grey") return readGrey(question.blob);
  if (question.kind === "stroke") {
    const mask = new Mask(question.width, question.height);
    strokeAll(mask, question.stroke);
    return encodeGrey(mask.values, mask.width, mask.height);
  }
  if (known?.key !== question.key) {
    known = null; // two pictures of 25 megapixels would take 200 MB
    known = { key: question.key, wand: await readPixels(question.blob) };
  }
  return question.click && known.wand.select(question.click);
}

// One after the other: two clicks on a new picture must not read it twice.
let turn = Promise.resolve();
self.addEventListener("message", ({ data }) => {
  turn = turn.then(async () => {
    try {
      const found = await answer(data.question);
      const values = found instanceof Uint8Array ? found : found?.values;
      /** @type {any} */ (self).postMessage({ id: data.id, found }, values ? [values.buffer] : []);
    } catch (error) {
      self.postMessage({ id: data.id, error: String(/** @type {Error} */ (error)?.message ?? error) });
    }
  });
});
