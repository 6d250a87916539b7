import { t } from "../i18n.js";
import { context2d } from "./canvas.js";
import { formatOf } from "./formats.js";

/**
 * A picture as the caller gave it, upright for showing. `blob` is the file itself, untouched; `shown` the same for the
 * browser, another file where it cannot show the first; `clear` how transparent each pixel is, 255 = nothing is seen of
 * it, or null if none is transparent.
 * @typedef {{blob: Blob, shown: Blob, name: string, width: number, height: number, clear: ?Uint8Array,
 *   element: HTMLImageElement}} Picture
 */

// inpaint/request.py's limits, so that a picture is refused before it is painted on; a test compares them.
export const LIMITS = Object.freeze({ minSide: 16, maxSide: 8192, maxPixels: 25_000_000, maxAspect: 16 });

const STRIP = 256; // rows read at a time: a canvas of 25 megapixels would take 100 MB once more

/**
 * Open a picture's file.
 * @param {{blob: Blob, name: string}} file
 * @param {(blob: Blob) => Promise<Blob>} display gives a file that the browser can show
 * @returns {Promise<Picture>}
 * @throws {Error} with a sentence: no picture, damaged, or of a size that cannot be painted
 */
export async function readPicture({ blob, name }, display) {
  await checkFormat(blob, name);
  const shown = await display(blob);
  const broken = new Error(t("{name} cannot be opened: the file is damaged or cut off.", { name }));
  const element = await decoded(shown, broken);
  const [width, height] = [element.naturalWidth, element.naturalHeight];
  const problem = sizeProblem(width, height);
  if (problem) throw new Error(t("{name} is {width} × {height} pixels; {problem}.", { name, width, height, problem }));
  // An <img> shows what there is of a file that was cut off; createImageBitmap refuses it.
  const bitmap = await createImageBitmap(shown, { colorSpaceConversion: "none" }).catch(() => {
    throw broken;
  });
  const clear = shown.type === "image/jpeg" ? null : transparency(bitmap);
  bitmap.close();
  return { blob, shown, name, width, height, clear, element };
}

/** @param {Blob} blob @param {Error} broken thrown if it cannot be decoded */
async function decoded(blob, broken) {
  const element = new Image();
  element.alt = "";
  element.draggable = false;
  element.src = URL.createObjectURL(blob);
  try {
    await element.decode();
  } catch {
    throw broken;
  } finally {
    URL.revokeObjectURL(element.src); // the element has what it needs
  }
  return element;
}

/** @param {Blob} blob @param {string} name @throws {Error} with a sentence */
async function checkFormat(blob, name) {
  let format;
  try {
    format = await formatOf(blob);
  } catch {
    throw new Error(t("{name} cannot be read: it was moved, deleted or changed since it was chosen.", { name }));
  }
  if (blob.size === 0) throw new Error(t("{name} is empty.", { name }));
  if (!format) throw new Error(t("{name} is not a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture.", { name }));
}

/** The problem with a picture of this size, or null. @param {number} width @param {number} height */
function sizeProblem(width, height) {
  const { minSide, maxSide, maxPixels, maxAspect } = LIMITS;
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (short < minSide || long > maxSide) return t("its sides must be {minSide} to {maxSide} pixels", { minSide, maxSide });
  if (short * long > maxPixels) return t("it may have at most {most} megapixels", { most: maxPixels / 1e6 });
  if (long > maxAspect * short) return t("it must not be narrower than 1:{maxAspect}", { maxAspect });
  return null;
}

/** The transparency of each pixel, or null if none is transparent. @param {ImageBitmap} bitmap */
function transparency(bitmap) {
  let clear = null;
  for (const { data, top } of strips(bitmap)) {
    for (let i = 3, at = top * bitmap.width; i < data.length; i += 4, at++) {
      if (data[i] === 255) continue;
      clear ??= new Uint8Array(bitmap.width * bitmap.height);
      clear[at] = 255 - data[i];
    }
  }
  return clear;
}

/**
 * A mask from a file: its luminance, upright, transparent parts black; as the server reads it.
 * @param {Blob} blob @param {number} width of the picture @param {number} height
 * @throws {Error} with a sentence: no picture, or not of this size
 */
export async function readMask(blob, width, height) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(t("The mask cannot be opened: it is not a picture, or the file is damaged."));
  }
  if (bitmap.width !== width || bitmap.height !== height) {
    const size = `${bitmap.width} × ${bitmap.height}`;
    bitmap.close();
    throw new Error(t("The mask is {size} pixels, but must have the picture's size, {width} × {height}.", { size, width, height }));
  }
  const values = new Uint8Array(width * height);
  for (const { data, top } of strips(bitmap, "black")) {
    for (let i = 0; i < data.length / 4; i++) {
      // Pillow's integers, so that page and server agree about a pixel at the threshold.
      const luminance = 19595 * data[4 * i] + 38470 * data[4 * i + 1] + 7471 * data[4 * i + 2] + 0x8000;
      values[top * width + i] = luminance >> 16;
    }
  }
  bitmap.close();
  return values;
}

/**
 * The pixels, some rows at a time, over `ground` if one is given.
 * @param {ImageBitmap} bitmap @param {?string} ground a CSS colour
 */
function* strips(bitmap, ground = null) {
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, Math.min(STRIP, height)];
  const context = context2d(canvas, { willReadFrequently: true });
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    context.clearRect(0, 0, width, rows);
    if (ground) {
      context.fillStyle = ground;
      context.fillRect(0, 0, width, rows);
    }
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    yield { data: context.getImageData(0, 0, width, rows).data, top };
  }
}
