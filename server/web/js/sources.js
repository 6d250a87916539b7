import { context2d, toFile } from "./editor/canvas.js";
import { t } from "./i18n.js";

/** @type {Record<string, string>} */
const ENDINGS = { "image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp" };

/** The web address that a text is, or the first one of a list of them; else null. @param {?string} [text] */
export function readUrl(text) {
  const first = (text ?? "").split(/\r?\n/).find((line) => line !== "" && !line.startsWith("#"));
  return first && /^https?:\/\/\S+$/.test(first.trim()) ? first.trim() : null;
}

/** A file name for a picture from a URL. @param {string} url @param {string} type of its file */
export function nameOfUrl(url, type) {
  const last = new URL(url).pathname.split("/").pop() ?? "";
  let name = last;
  try {
    name = decodeURIComponent(last);
  } catch {
    // It is no encoded text, and is a name as it is.
  }
  const stem = name.replace(/\.[^.]*$/, "").replace(/[\\/:*?"<>|]/g, "_");
  return `${stem || "picture"}${ENDINGS[type] ?? ".png"}`;
}

/** Write a picture that only the browser reads as PNG. @param {Blob} file @throws {Error} with a sentence */
export async function rewritten(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(t("The picture cannot be opened: the file is damaged or cut off."));
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  context2d(canvas).drawImage(bitmap, 0, 0);
  bitmap.close();
  return toFile(canvas, "image/png", 1);
}
