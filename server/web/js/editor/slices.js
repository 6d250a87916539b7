import { Mask } from "./mask.js";
import { isNothing, whole } from "./rect.js";
import { Snapshot } from "./snapshot.js";

/** @typedef {import("./rect.js").Rect} Rect @typedef {import("./computing.js").Change} Change */

const SLICED_PX = 6_000_000; // what is changed in one piece takes a frame or two up to here
const BAND = 256; // rows: a row of a snapshot's tiles, and a whole cell of the pyramid
const SLICE_MS = 8; // then the page may do something else

/** True for a change that would keep the page from drawing for too long. @param {Rect} rect what it changes */
export const isLong = ({ left, top, right, bottom }) => (right - left) * (bottom - top) > SLICED_PX;

/**
 * Make a change on a copy of the mask, in slices between which the page goes on.
 * @param {Mask} mask must not change meanwhile @param {Snapshot} before what it holds
 * @param {Rect} rect what is changed @param {Change["act"]} act @param {() => boolean} isWanted asked after each slice
 * @returns {Promise<?{mask: Mask, snapshot: Snapshot}>} null if it was no longer wanted
 */
export async function inSlices(mask, before, rect, act, isWanted) {
  const { width, height } = mask;
  const copy = new Mask(width, height);
  for (let k = 1; k < mask.levels.length; k++) copy.levels[k].values.set(mask.levels[k].values);
  let snapshot = before;
  let end = performance.now() + SLICE_MS;
  for (let top = 0; top < height; top += BAND) {
    const rows = { ...whole(width, height), top, bottom: Math.min(top + BAND, height) };
    copy.values.set(mask.values.subarray(rows.top * width, rows.bottom * width), rows.top * width);
    const part = { ...rect, top: Math.max(rect.top, rows.top), bottom: Math.min(rect.bottom, rows.bottom) };
    if (!isNothing(part)) {
      act(copy, part);
      snapshot = Snapshot.take(copy, snapshot, part);
    }
    if (performance.now() < end) continue;
    await pause();
    if (!isWanted()) return null;
    end = performance.now() + SLICE_MS;
  }
  return { mask: copy, snapshot };
}

/** Let the page do what it has to; a timer would wait for some milliseconds. @returns {Promise<void>} */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
