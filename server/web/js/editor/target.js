import { thresholdOf } from "./box.js";
import { context2d, toFile } from "./canvas.js";

/** @typedef {import("./document.js").Document} Document @typedef {import("./rect.js").Rect} Rect */
/**
 * What a painting changes, as it was when it was asked for: its box in pixels of the picture, and the mask in it,
 * scaled down, 255 = repainted. It can be kept in a draft.
 * @typedef {{box: Rect, width: number, height: number, alpha: Uint8ClampedArray}} Target
 */

const MOST = 768; // px a side: a preview has about 128
const THUMBNAIL = 96; // px a side: shown at half of it
const TINT = "rgb(229 57 53 / 55%)"; // the mask's colour

/** The target of a painting that would begin now. @param {Document} doc @returns {?Target} */
export function targetOf(doc) {
  const { box, mask, settings } = doc;
  if (!box) return null;
  const [w, h] = [box.right - box.left, box.bottom - box.top];
  const scale = Math.min(1, MOST / Math.max(w, h));
  const [width, height] = [Math.max(1, Math.round(w * scale)), Math.max(1, Math.round(h * scale))];
  const alpha = new Uint8ClampedArray(width * height);
  const threshold = thresholdOf(settings);
  for (let y = 0, i = 0; y < height; y++) {
    const py = Math.floor(box.top + ((y + 0.5) * h) / height);
    for (let x = 0; x < width; x++, i++) {
      const px = Math.floor(box.left + ((x + 0.5) * w) / width);
      const inside = px >= 0 && py >= 0 && px < mask.width && py < mask.height;
      if (!inside || mask.values[py * mask.width + px] >= threshold) alpha[i] = 255;
    }
  }
  return { box, width, height, alpha };
}

/** True if a painting that begins now would have this target. @param {Document} doc @param {Target} target */
export function isTarget(doc, target) {
  const now = targetOf(doc);
  if (!now || now.width !== target.width || now.height !== target.height) return false;
  const { box } = target;
  const sameBox = now.box.left === box.left && now.box.top === box.top;
  return sameBox && now.alpha.every((v, i) => v === target.alpha[i]);
}

/** Draw `image` over a target's box, seen where its mask is. @param {HTMLCanvasElement} canvas @param {Target} target
 * @param {CanvasImageSource} image */
export function drawInMask(canvas, target, image) {
  const context = context2d(canvas);
  fillMask(canvas, target);
  context.globalCompositeOperation = "source-in";
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

/** @param {HTMLCanvasElement} canvas @param {Target} target */
function fillMask(canvas, { width, height, alpha }) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < alpha.length; i++) image.data[4 * i + 3] = alpha[i];
  context2d(canvas).putImageData(image, 0, 0);
}

/** A small picture of a target: its part of the picture, the mask tinted. @param {Document} doc @param {Target} target */
export async function thumbnailOf(doc, target) {
  const { box } = target;
  const [w, h] = [box.right - box.left, box.bottom - box.top];
  const scale = THUMBNAIL / Math.max(w, h);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(1, Math.round(w * scale)), Math.max(1, Math.round(h * scale))];
  const mask = document.createElement("canvas");
  fillMask(mask, target);
  const tint = context2d(mask);
  tint.globalCompositeOperation = "source-in";
  tint.fillStyle = TINT;
  tint.fillRect(0, 0, mask.width, mask.height);
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  const { element, width, height } = doc.picture;
  context.drawImage(element, -box.left * scale, -box.top * scale, width * scale, height * scale);
  context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  return toFile(canvas, "image/webp", 0.85);
}
