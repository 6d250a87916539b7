/**
 * How the mask is shown: a colour that lets the picture through, or black and white in the picture's place.
 * @typedef {{colour: string, opacity: number, grey: boolean}} Look colour as #rrggbb, opacity 0..1
 */

/** @type {Readonly<Look>} a colour seldom in photographs; the outline helps where it is */
export const USUAL_LOOK = Object.freeze({ colour: "#ff1870", opacity: 0.46, grey: false });

const COLOUR = /^#[0-9a-f]{6}$/i;

/** What is usable of a look, and the rest as it was. @param {Partial<Look>} wanted @param {Look} before @returns {Look} */
export function fittedLook({ colour, opacity, grey }, before) {
  const share = Number(opacity ?? before.opacity);
  return {
    colour: typeof colour === "string" && COLOUR.test(colour) ? colour : before.colour,
    opacity: Number.isFinite(share) ? Math.min(Math.max(share, 0.1), 1) : before.opacity,
    grey: Boolean(grey ?? before.grey),
  };
}

// Little endian, as every machine with a browser is: alpha, blue, green, red.
/** @param {number} r 0..255 @param {number} g @param {number} b @param {number} a 0..1 */
export const rgba = (r, g, b, a) => ((Math.round(a * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** A colour for each grey of the mask. @param {Look} look */
export function tintsOf({ colour, opacity, grey }) {
  if (grey) return Uint32Array.from({ length: 256 }, (_, v) => rgba(v, v, v, 1));
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return Uint32Array.from({ length: 256 }, (_, v) => (v === 0 ? 0 : rgba(r, g, b, (opacity * v) / 255)));
}
