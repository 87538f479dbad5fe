/** Reads what a shared library is linked to, as `readelf -d` lists it (ELF-64, System V ABI). */
import { closeSync, openSync, readSync } from "node:fs";

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_STRSZ = 10;

/** Names of the libraries that the file asks the loader for; null where it is no such file. */
export function neededLibraries(path: string): string[] | null {
  const fd = openSync(path, "r");
  const read = (position: number, size: number): Buffer => {
    const bytes = Buffer.alloc(size);
    return bytes.subarray(0, readSync(fd, bytes, 0, size, position));
  };
  try {
    const header = read(0, 64);
    const isElf = header.length === 64 && header.readUInt32BE(0) === 0x7f454c46;
    // class 2 is 64 bits, data 1 little-endian: all that is asked for on x64
    if (!isElf || header[4] !== 2 || header[5] !== 1) return null;
    const [entrySize, count] = [header.readUInt16LE(54), header.readUInt16LE(56)];
    const table = read(Number(header.readBigUInt64LE(32)), entrySize * count);
    const segments = Array.from({ length: count }, (_, i) => {
      const entry = table.subarray(i * entrySize);
      const at = (offset: number): number => Number(entry.readBigUInt64LE(offset));
      return { type: entry.readUInt32LE(0), offset: at(8), address: at(16), size: at(32) };
    });
    const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
    if (dynamic === undefined) return [];
    const entries = read(dynamic.offset, dynamic.size);
    const tagged = Array.from({ length: Math.floor(entries.length / 16) }, (_, i) => ({
      tag: Number(entries.readBigInt64LE(16 * i)),
      value: Number(entries.readBigUInt64LE(16 * i + 8)),
    }));
    const valueOf = (wanted: number): number => tagged.find(({ tag }) => tag === wanted)?.value ?? 0;
    const address = valueOf(DT_STRTAB);
    const home = segments.find(
      (one) => one.type === PT_LOAD && address >= one.address && address < one.address + one.size,
    );
    const strings = read(address - (home === undefined ? 0 : home.address - home.offset), valueOf(DT_STRSZ));
    return tagged
      .filter(({ tag }) => tag === DT_NEEDED)
      .map(({ value }) => strings.toString("latin1", value, strings.indexOf(0, value)));
  } catch (error) {
    if (error instanceof RangeError) return null; // it ends before what it announces
    throw error;
  } finally {
    closeSync(fd);
  }
}
