/** @typedef {"png"|"jpeg"|"webp"|"avif"|"tiff"|"heic"|"bmp"|"gif"} Format */

const HEAD = 32; // bytes that say what a file is
const HEIC_BRANDS = /^.{4}ftyp(hei[cxms]|hev[cxms]|mif[12]|msf1)/s;

/** @type {[Format, RegExp][]} */
const STARTS = [
  ["png", /^\x89PNG/],
  ["jpeg", /^\xff\xd8\xff/],
  ["webp", /^RIFF.{4}WEBP/s],
  ["tiff", /^(II[*+]\0|MM\0\*)/],
  ["avif", /^.{4}ftyp(.{4})*avi[fs]/s],
  ["heic", HEIC_BRANDS],
  ["bmp", /^BM/],
  ["gif", /^GIF8/],
];

/**
 * A file's format by its first bytes; a folder or the clipboard may name another, or none.
 * @param {Blob} blob @returns {Promise<?Format>} null for what is no picture, or of no known kind
 */
export async function formatOf(blob) {
  const head = new Uint8Array(await blob.slice(0, HEAD).arrayBuffer());
  const text = String.fromCharCode(...head);
  return STARTS.find(([, start]) => start.test(text))?.[0] ?? null;
}
