import { formatOf } from "./editor/formats.js";

/**
 * Pictures that browsers do not show, as the server shows them: a function from a file to one that can be shown. The
 * file itself stays what is painted on, so that nothing of it is lost.
 * @param {import("./api.js").Api} api @returns {(blob: Blob) => Promise<Blob>}
 */
export function displaying(api) {
  /** @type {WeakMap<Blob, Promise<Blob>>} */
  const asked = new WeakMap();
  return async (blob) => {
    const format = await formatOf(blob);
    if (format !== "tiff" && format !== "heic") return blob;
    const known = asked.get(blob) ?? api.displayable(blob);
    asked.set(blob, known);
    known.catch(() => asked.delete(blob)); // the server may answer the next time
    return known;
  };
}
