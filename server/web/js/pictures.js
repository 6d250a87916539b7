import { formatOf as fileFormat } from "./editor/formats.js";
import { newId } from "./workspace.js";

/** @typedef {import("./editor/editor.js").Editor} Editor @typedef {import("./results.js").Result} Result */
/** @typedef {{name: string, type: string}} Origin the file that it all began with */

/** @type {Record<string, [string, string]>} */
const TYPES = { "image/jpeg": ["jpeg", "jpg"], "image/png": ["png", "png"], "image/webp": ["webp", "webp"] };
const EARLIER = /_inpainted(_\d+)?$/;

/** The server's name for a type, and its file ending. @param {string} type @returns {[string, string]} */
export const formatOf = (type) => TYPES[type] ?? TYPES["image/png"];

/** The file name of a result. @param {Origin} origin @param {number} seed */
export function resultName(origin, seed) {
  const stem = origin.name.replace(/\.[^.]*$/, "").replace(EARLIER, "");
  return `${stem}_inpainted_${seed}.${formatOf(origin.type)[1]}`;
}

/** The type that a file's results are saved in: JPEG for photographs that browsers do not write. @param {Blob} blob */
async function typeOf(blob) {
  const format = await fileFormat(blob);
  if (format === "avif" || format === "heic") return "image/jpeg";
  return format === "jpeg" || format === "webp" ? `image/${format}` : "image/png";
}

/** The working picture: the caller's own file, untouched, or a result that was kept. */
export class Pictures {
  /** The origin of every file that was the working picture: undo brings them back. */
  #sources = new WeakMap();

  /** @param {Editor} editor */
  constructor(editor) {
    this.editor = editor;
  }

  /**
   * Open a file: afresh, or in place of the picture that is there, which undo brings back.
   * @param {Blob} blob @param {string} name @throws {Error} with a sentence
   */
  async open(blob, name) {
    this.#sources.set(blob, { id: newId(), origin: { name, type: await typeOf(blob) }, result: null });
    await this.editor.replace({ blob, name }); // its listeners look for the source
  }

  /** Make a changed file of the working picture the working picture. @param {Blob} blob a PNG */
  async change(blob) {
    const { origin } = this.#source;
    const stem = origin.name.replace(/\.[^.]*$/, "").replace(EARLIER, "");
    this.#sources.set(blob, { id: newId(), origin, result: null });
    await this.editor.replace({ blob, name: `${stem}_erased.png` });
  }

  /** Make a result the working picture. @param {Blob} blob @param {Result} result */
  async keep(blob, result) {
    this.#sources.set(blob, { id: result.id, origin: result.origin, result });
    await this.editor.replace({ blob, name: resultName(result.origin, result.seed) });
  }

  /**
   * Put a result's exact picture in the place of its draft, wherever that is or was the working picture.
   * @param {Result} result @param {Blob} blob
   */
  async swap(result, blob) {
    /** @param {Blob} one */
    const isDraft = (one) => this.#sources.get(one)?.result?.id === result.id;
    this.#sources.set(blob, { id: result.id, origin: result.origin, result });
    await this.editor.swap(isDraft, { blob, name: resultName(result.origin, result.seed) });
  }

  /** The name of the working picture, by which paintings know what they are painted on; a result has its own. */
  get id() {
    return this.#source.id;
  }

  /** @returns {Origin} of the working picture */
  get origin() {
    return this.#source.origin;
  }

  /** @returns {?Result} that the working picture is */
  get result() {
    return this.#source.result;
  }

  /** The history of pictures, with what is known of each. @returns {?import("./past.js").SourcedPast} */
  get past() {
    const { past } = this.editor;
    if (!past) return null;
    const chapters = past.chapters.map(({ file, steps }) => ({ ...this.#sourceOf(file), ...file, steps }));
    return { at: past.at, chapters };
  }

  /** @param {import("./past.js").SourcedPast} past as it was */
  async revive({ at, chapters }) {
    for (const { blob, id, origin, result } of chapters) this.#sources.set(blob, { id, origin, result });
    await this.editor.revive({
      at,
      chapters: chapters.map(({ blob, name, steps }) => ({ file: { blob, name }, steps })),
    });
  }

  get #source() {
    return this.#sourceOf(this.editor.picture);
  }

  /** @param {?{blob: Blob, name: string}} picture @returns {{id: string, origin: Origin, result: ?Result}} */
  #sourceOf(picture) {
    const unknown = { id: "", origin: { name: picture?.name ?? "picture.png", type: "image/png" }, result: null };
    return (picture && this.#sources.get(picture.blob)) ?? unknown;
  }
}
