/** Checks MessagePack (spec.md) before unpacking: a short message must not allocate much. */

/** Larger headers are refused; tensors travel in frames of their own. */
export const MAX_HEADER_BYTES = 2 ** 20;
/** Containers inside containers. */
const MAX_DEPTH = 16;

/** Bytes of nil, booleans and numbers, from tag 0xc0 on; 0 for what is of another kind. */
const FIXED_BYTES = [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 5, 9, 2, 3, 5, 9, 2, 3, 5, 9];

/** What is wrong with one MessagePack value; null when it can be unpacked safely. */
export function messagePackFault(bytes: Uint8Array): string | null {
  if (bytes.byteLength > MAX_HEADER_BYTES)
    return `expected at most ${MAX_HEADER_BYTES} bytes, found ${bytes.byteLength}`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** Values still to come at each depth. */
  const open = [1];
  let at = 0;
  while (open.length > 0) {
    if (open.at(-1) === 0) {
      open.pop();
      continue;
    }
    open[open.length - 1]!--;
    if (at >= view.byteLength) return "expected more bytes, found the end";
    const value = sizeOf(view, at);
    if (value === null) return `expected plain MessagePack, found byte 0x${view.getUint8(at).toString(16)}`;
    at += value.bytes;
    if (value.items === 0) continue;
    // every item takes at least a byte
    if (at > view.byteLength || value.items > view.byteLength - at)
      return `expected ${value.items} more values, found ${Math.max(0, view.byteLength - at)} bytes`;
    if (open.length >= MAX_DEPTH) return `expected at most ${MAX_DEPTH} levels`;
    open.push(value.items);
  }
  return at === view.byteLength ? null : `expected ${at} bytes, found ${view.byteLength}`;
}

/** Bytes of a value without its items, and how many items follow; null for extensions and 0xc1. */
function sizeOf(view: DataView, at: number): { bytes: number; items: number } | null {
  const tag = view.getUint8(at);
  const leaf = (bytes: number): { bytes: number; items: number } => ({ bytes, items: 0 });
  if (tag <= 0x7f || tag >= 0xe0) return leaf(1);
  if (tag <= 0x8f) return { bytes: 1, items: 2 * (tag & 0x0f) };
  if (tag <= 0x9f) return { bytes: 1, items: tag & 0x0f };
  if (tag <= 0xbf) return leaf(1 + (tag & 0x1f));
  const length = (width: 1 | 2 | 4): number => {
    if (at + 1 + width > view.byteLength) return Infinity;
    return width === 1 ? view.getUint8(at + 1) : width === 2 ? view.getUint16(at + 1) : view.getUint32(at + 1);
  };
  const fixed = FIXED_BYTES[tag - 0xc0];
  if (fixed) return leaf(fixed);
  if (tag === 0xd9 || tag === 0xc4) return leaf(2 + length(1));
  if (tag === 0xda || tag === 0xc5) return leaf(3 + length(2));
  if (tag === 0xdb || tag === 0xc6) return leaf(5 + length(4));
  if (tag === 0xdc) return { bytes: 3, items: length(2) };
  if (tag === 0xdd) return { bytes: 5, items: length(4) };
  if (tag === 0xde) return { bytes: 3, items: 2 * length(2) };
  if (tag === 0xdf) return { bytes: 5, items: 2 * length(4) };
  return null;
}
