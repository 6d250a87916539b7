import { Wand } from "./wand.js";

const STRIP = 512; // rows read at a time: a canvas of 25 megapixels would take 100 MB once more

/** Read a picture for the wand. @param {Blob} blob @returns {Promise<Wand>} */
export async function readPixels(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const pixels = new Int32Array(width * height);
  for (const { data, top } of strips(bitmap)) pixels.set(new Int32Array(data.buffer), top * width);
  bitmap.close();
  return new Wand(pixels, width, height);
}

/** Read a grey picture. @param {Blob} blob @returns {Promise<Uint8Array<ArrayBuffer>>} its greys, row by row */
export async function readGrey(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (const { data, top } of strips(bitmap)) {
    for (let i = 0, at = top * bitmap.width; i < data.length; i += 4, at++) values[at] = data[i];
  }
  bitmap.close();
  return values;
}

/** The pixels, some rows at a time. @param {ImageBitmap} bitmap */
function* strips(bitmap) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, Math.min(STRIP, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This browser gives the page no canvas to read pictures with.");
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    yield { data: context.getImageData(0, 0, width, rows).data, top };
  }
}
