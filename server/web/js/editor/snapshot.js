import { union, whole } from "./rect.js";

/** @typedef {import("./mask.js").Mask} Mask @typedef {import("./rect.js").Rect} Rect */
/** @typedef {number|Uint8Array} Tile the grey that all its pixels have, or theirs row by row */

const SIDE = 256; // px of a tile

/**
 * A mask as it was at one moment, in tiles that it shares with the snapshot before: only what a stroke has touched
 * is copied, and a tile of one grey is a number.
 */
export class Snapshot {
  /** @param {number} width of the mask @param {number} height @param {Tile[]} tiles row by row */
  constructor(width, height, tiles) {
    this.width = width;
    this.height = height;
    this.tiles = tiles;
  }

  /** The snapshot of an empty mask. @param {number} width @param {number} height */
  static empty(width, height) {
    const tiles = new Array(Math.ceil(width / SIDE) * Math.ceil(height / SIDE)).fill(0);
    return new Snapshot(width, height, tiles);
  }

  /**
   * The mask now, given that it differs from `before` in `rect` only.
   * @param {Mask} mask @param {Snapshot} before @param {?Rect} rect
   */
  static take(mask, before, rect) {
    const tiles = before.tiles.slice();
    if (rect) {
      for (const [index, area] of tilesOf(mask.width, mask.height, rect)) tiles[index] = copyTile(mask, area);
    }
    return new Snapshot(mask.width, mask.height, tiles);
  }

  /**
   * Make `mask`, which is as in `now`, as it was here.
   * @param {Mask} mask @param {Snapshot} now @returns {?Rect} what has changed
   */
  restore(mask, now) {
    /** @type {?Rect} */
    let changed = null;
    for (const [index, area] of tilesOf(mask.width, mask.height, whole(mask.width, mask.height))) {
      if (this.tiles[index] === now.tiles[index]) continue;
      pasteTile(mask, area, this.tiles[index]);
      changed = union(changed, area);
    }
    mask.touch(changed);
    return changed;
  }
}

/** Return the bytes that the snapshots hold together. @param {Iterable<Snapshot>} snapshots */
export function bytesHeld(snapshots) {
  const tiles = new Set();
  for (const snapshot of snapshots) {
    for (const tile of snapshot.tiles) if (typeof tile !== "number") tiles.add(tile);
  }
  return [...tiles].reduce((sum, tile) => sum + tile.length, 0);
}

/**
 * The tiles that a rectangle touches: their numbers and where they lie.
 * @param {number} width of the mask @param {number} height @param {Rect} rect
 * @returns {Generator<[index: number, area: Rect]>}
 */
function* tilesOf(width, height, rect) {
  const across = Math.ceil(width / SIDE);
  for (let row = Math.floor(rect.top / SIDE); row * SIDE < rect.bottom; row++) {
    for (let column = Math.floor(rect.left / SIDE); column * SIDE < rect.right; column++) {
      const [left, top] = [column * SIDE, row * SIDE];
      const [right, bottom] = [Math.min(left + SIDE, width), Math.min(top + SIDE, height)];
      yield [row * across + column, { left, top, right, bottom }];
    }
  }
}

/** @param {Mask} mask @param {Rect} area @returns {Tile} */
function copyTile(mask, area) {
  if (isEven(mask, area)) return mask.values[area.top * mask.width + area.left];
  const { left, top, right, bottom } = area;
  const width = right - left;
  const tile = new Uint8Array(width * (bottom - top));
  for (let y = top; y < bottom; y++) {
    tile.set(mask.values.subarray(y * mask.width + left, y * mask.width + right), (y - top) * width);
  }
  return tile;
}

/** Whether all pixels have one grey. @param {Mask} mask @param {Rect} area */
function isEven({ values, width }, { left, top, right, bottom }) {
  const grey = values[top * width + left];
  const word = (grey * 0x01010101) | 0;
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
  for (let y = top; y < bottom; y++) {
    let i = y * width + left;
    const end = y * width + right;
    for (; i + 4 <= end; i += 4) if (view.getInt32(i) !== word) return false;
    for (; i < end; i++) if (values[i] !== grey) return false;
  }
  return true;
}

/** @param {Mask} mask @param {Rect} area @param {Tile} tile */
function pasteTile(mask, { left, top, right, bottom }, tile) {
  const width = right - left;
  for (let y = top; y < bottom; y++) {
    const at = y * mask.width + left;
    if (typeof tile === "number") mask.values.fill(tile, at, at + width);
    else mask.values.set(tile.subarray((y - top) * width, (y - top + 1) * width), at);
  }
}
