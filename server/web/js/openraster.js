import { context2d, toFile } from "./editor/canvas.js";
import { zip } from "./zip.js";

/**
 * @typedef {object} Layer
 * @property {string} name
 * @property {Blob} png
 * @property {number} x
 * @property {number} y
 * @property {boolean} visible
 */

const TYPE = "image/openraster";
const THUMBNAIL = 256; // px, as the format says

/**
 * A picture with layers that Krita, GIMP and others open.
 * @param {number} width @param {number} height
 * @param {Layer[]} layers the top one first @param {Blob} merged a PNG of what is seen
 */
export async function openRaster(width, height, layers, merged) {
  const named = layers.map((layer, number) => ({ ...layer, path: `data/layer${number}.png` }));
  return zip(
    [
      ["mimetype", TYPE], // first, so that programs know the format by the first bytes
      ["stack.xml", stack(width, height, named)],
      ...named.map(({ path, png }) => /** @type {[string, Blob]} */ ([path, png])),
      ["mergedimage.png", merged],
      ["Thumbnails/thumbnail.png", await thumbnail(merged)],
    ],
    TYPE,
  );
}

/** @param {number} width @param {number} height @param {(Layer & {path: string})[]} layers */
function stack(width, height, layers) {
  const lines = layers.map(({ name, path, x, y, visible }) => {
    const place = `src="${path}" x="${x}" y="${y}" visibility="${visible ? "visible" : "hidden"}"`;
    return `<layer name="${escaped(name)}" ${place} opacity="1.0" composite-op="svg:src-over"/>`;
  });
  const image = `<image version="0.0.3" w="${width}" h="${height}">`;
  return `<?xml version="1.0" encoding="UTF-8"?>\n${image}\n<stack>\n${lines.join("\n")}\n</stack>\n</image>\n`;
}

/** @param {string} text for an attribute of XML; control characters have no place there */
function escaped(text) {
  // eslint-disable-next-line no-control-regex
  const plain = text.replace(/[\0-\x1f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])/g, " ");
  return plain.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

/** @param {Blob} merged */
async function thumbnail(merged) {
  const bitmap = await createImageBitmap(merged);
  const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  context2d(canvas).drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return toFile(canvas, "image/png", 1);
}
