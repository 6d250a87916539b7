/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */
/** @typedef {import("./wand.js").Selection} Selection */

/**
 * Paint a selection with a grey; where it is half selected, half of that.
 * @param {Mask} mask @param {?Selection} selection inside the mask @param {number} value 0..255
 * @returns {?Rect} what has changed
 */
export function paintSelection(mask, selection, value) {
  if (!selection) return null;
  const { rect, values } = selection;
  const width = rect.right - rect.left;
  const [shares, greys] = [values, mask.values].map((of) => new DataView(of.buffer, of.byteOffset, of.byteLength));
  const word = value * 0x01010101;
  for (let y = rect.top, from = 0; y < rect.bottom; y++) {
    for (let i = y * mask.width + rect.left, end = i + width; i < end; i++, from++) {
      // Most of a selection is all or nothing: four pixels at a time.
      const four = i + 4 <= end ? shares.getInt32(from) : 1;
      if (four === 0 || four === -1) {
        if (four === -1) greys.setInt32(i, word);
        i += 3;
        from += 3;
        continue;
      }
      const share = values[from];
      if (share === 255) mask.values[i] = value;
      else if (share !== 0) mask.values[i] += Math.round(((value - mask.values[i]) * share) / 255);
    }
  }
  mask.touch(rect);
  return rect;
}
