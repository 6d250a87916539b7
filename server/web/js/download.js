import { save } from "./dom.js";
import { context2d, toFile } from "./editor/canvas.js";
import { formatOf, resultName } from "./pictures.js";
import { isWithoutServer } from "./wholes.js";

/** @typedef {import("./results.js").Result} Result */

const QUALITY = 0.95;

/**
 * Save a result in the format of the picture that it was painted on: written by the server, with its colour profile
 * and settings; by the browser where the server no longer has it.
 * @param {import("./wholes.js").Wholes} wholes @param {Result} result
 * @returns {Promise<boolean>} whether nothing is missing from the file
 */
export async function downloadResult(wholes, result) {
  const name = resultName(result.origin, result.seed);
  const [format] = formatOf(result.origin.type);
  try {
    save(await wholes.fetch(result.path, format), name);
    return true;
  } catch (error) {
    if (!isWithoutServer(error)) throw error;
  }
  const { blob, exact } = await wholes.file(result);
  save(format === "png" ? blob : await convert(blob, result.origin.type), name);
  return format === "png" && exact;
}

/** @param {Blob} blob @param {string} type */
async function convert(blob, type) {
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = context2d(canvas);
  if (type === "image/jpeg") {
    context.fillStyle = "white"; // as the server lays transparency over white
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return toFile(canvas, type, QUALITY);
}
