const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});
const MADE = 0x21; // the first day that a ZIP file can name: none of its readers asks

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * A ZIP archive of files that are stored as they are; PNGs are compressed already.
 * @param {[string, Blob|string][]} files names and contents, in order @param {string} type of the archive
 */
export async function zip(files, type) {
  /** @type {BlobPart[]} */
  const parts = [];
  const directory = [];
  let at = 0;
  for (const [name, content] of files) {
    const bytes = new Uint8Array(await new Blob([content]).arrayBuffer());
    const entry = { name: new TextEncoder().encode(name), crc: crc32(bytes), size: bytes.length, at };
    const head = header(entry, false);
    parts.push(head, bytes);
    directory.push(header(entry, true));
    at += head.length + bytes.length;
  }
  const length = directory.reduce((sum, { byteLength }) => sum + byteLength, 0);
  return new Blob([...parts, ...directory, end(files.length, length, at)], { type });
}

/**
 * @param {{name: Uint8Array, crc: number, size: number, at: number}} entry
 * @param {boolean} central whether it is for the directory at the end
 */
function header({ name, crc, size, at }, central) {
  const bytes = new Uint8Array((central ? 46 : 30) + name.length);
  const view = new DataView(bytes.buffer);
  const shift = central ? 2 : 0; // the version that made it
  view.setUint32(0, central ? 0x02014b50 : 0x04034b50, true);
  if (central) view.setUint16(4, 20, true);
  view.setUint16(4 + shift, 20, true);
  view.setUint16(6 + shift, 0x0800, true); // names are UTF-8
  view.setUint16(12 + shift, MADE, true);
  view.setUint32(14 + shift, crc, true);
  view.setUint32(18 + shift, size, true);
  view.setUint32(22 + shift, size, true);
  view.setUint16(26 + shift, name.length, true);
  if (central) view.setUint32(42, at, true);
  bytes.set(name, bytes.length - name.length);
  return bytes;
}

/** @param {number} count @param {number} length of the directory @param {number} at where it begins */
function end(count, length, at) {
  const bytes = new Uint8Array(22);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x06054b50, true);
  view.setUint16(8, count, true);
  view.setUint16(10, count, true);
  view.setUint32(12, length, true);
  view.setUint32(16, at, true);
  return bytes;
}
