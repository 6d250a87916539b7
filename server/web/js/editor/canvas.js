import { t } from "../i18n.js";

/**
 * The 2D context of a canvas that has no context of another kind.
 * @param {HTMLCanvasElement} canvas @param {CanvasRenderingContext2DSettings} [settings]
 * @returns {CanvasRenderingContext2D}
 */
export function context2d(canvas, settings) {
  const context = canvas.getContext("2d", settings);
  if (!context) throw new Error(t("This browser gives the page no canvas to draw on."));
  return context;
}

/**
 * The canvas as a file.
 * @param {HTMLCanvasElement} canvas @param {string} type @param {number} quality 0..1
 * @returns {Promise<Blob>}
 */
export function toFile(canvas, type, quality) {
  const refused = new Error(t("This browser could not write the picture."));
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(refused)), type, quality),
  );
}
