import { context2d, toFile } from "./editor/canvas.js";

/** @typedef {{png: Blob, x: number, y: number}} Patch a cut-out and its place in the picture */

const STRIP = 256; // rows at a time: whole, two pictures of 25 megapixels would take 200 MB
const AROUND = 2; // px: a pixel that was painted in its old colour is no hole

/** A picture as PNG, in the browser's colours. @param {ImageBitmap} bitmap */
export function asPng(bitmap) {
  return toFile(drawn(bitmap, 0, 0, bitmap.width, bitmap.height).canvas, "image/png", 1);
}

/**
 * The part of a result that differs from the picture below it; laid over that, it gives the result exactly.
 * @param {ImageBitmap} result @param {ImageBitmap} picture of the same size
 * @returns {Promise<?Patch>} null if they are equal
 */
export async function painted(result, picture) {
  const box = difference(result, picture);
  if (!box) return null;
  const { left, top, width, height } = box;
  const over = drawn(result, left, top, width, height);
  const under = drawn(picture, left, top, width, height);
  const pixels = over.getImageData(0, 0, width, height);
  const changed = differing(pixels.data, under.getImageData(0, 0, width, height).data);
  const inside = widened(changed, width, height);
  for (let i = 0; i < inside.length; i++) {
    if (!inside[i]) pixels.data[4 * i + 3] = 0;
  }
  over.putImageData(pixels, 0, 0);
  return { png: await toFile(over.canvas, "image/png", 1), x: left, y: top };
}

/** The box of all pixels that differ. @param {ImageBitmap} a @param {ImageBitmap} b */
function difference(a, b) {
  const { width } = a;
  let [left, top, right, bottom] = [width, a.height, 0, 0];
  for (let y = 0; y < a.height; y += STRIP) {
    const rows = Math.min(STRIP, a.height - y);
    const [one, other] = [a, b].map((bitmap) => drawn(bitmap, 0, y, width, rows).getImageData(0, 0, width, rows).data);
    const differs = differing(one, other);
    for (let i = 0; i < differs.length; i++) {
      if (!differs[i]) continue;
      const [x, line] = [i % width, y + Math.floor(i / width)];
      if (x < left) left = x;
      if (x > right) right = x;
      if (line < top) top = line;
      bottom = line;
    }
  }
  if (right < left) return null;
  [left, top] = [Math.max(0, left - AROUND), Math.max(0, top - AROUND)];
  const end = { x: Math.min(width, right + 1 + AROUND), y: Math.min(a.height, bottom + 1 + AROUND) };
  return { left, top, width: end.x - left, height: end.y - top };
}

/** @param {Uint8ClampedArray} a @param {Uint8ClampedArray} b @returns {Uint8Array} 1 for each pixel that differs */
function differing(a, b) {
  const [one, other] = [new Uint32Array(a.buffer), new Uint32Array(b.buffer)];
  const differs = new Uint8Array(one.length);
  for (let i = 0; i < one.length; i++) differs[i] = one[i] === other[i] ? 0 : 1;
  return differs;
}

/** The same with the pixels around. @param {Uint8Array} from @param {number} width @param {number} height */
function widened(from, width, height) {
  const across = new Uint8Array(from.length);
  const to = new Uint8Array(from.length);
  for (let i = 0; i < from.length; i++) {
    const x = i % width;
    for (let k = Math.max(0, x - AROUND); k <= Math.min(width - 1, x + AROUND); k++) across[i] |= from[i - x + k];
  }
  for (let i = 0; i < from.length; i++) {
    const y = Math.floor(i / width);
    const last = Math.min(height - 1, y + AROUND);
    for (let k = Math.max(0, y - AROUND); k <= last; k++) to[i] |= across[i + (k - y) * width];
  }
  return to;
}

/** @param {ImageBitmap} bitmap @param {number} left @param {number} top @param {number} width @param {number} height */
function drawn(bitmap, left, top, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = context2d(canvas, { willReadFrequently: true });
  context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
  return context;
}
