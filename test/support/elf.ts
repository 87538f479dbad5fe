/** The smallest shared library that asks the loader for these: nothing in it can be called. */
export function linkedTo(libraries: readonly string[]): Buffer {
  const names = Buffer.from(`\0${libraries.join("\0")}\0`, "latin1");
  const offsets = libraries.map((_, i) => 1 + libraries.slice(0, i).reduce((sum, name) => sum + name.length + 1, 0));
  const [headerSize, entrySize, base] = [64, 56, 0x1000];
  const stringsAt = headerSize + 2 * entrySize;
  const dynamicAt = stringsAt + names.length;
  const tags: [tag: number, value: number][] = [
    ...offsets.map((offset): [number, number] => [1, offset]),
    [5, base + stringsAt],
    [10, names.length],
    [0, 0],
  ];
  const dynamic = Buffer.alloc(16 * tags.length);
  tags.forEach(([tag, value], i) => {
    dynamic.writeBigUInt64LE(BigInt(tag), 16 * i);
    dynamic.writeBigUInt64LE(BigInt(value), 16 * i + 8);
  });
  const size = dynamicAt + dynamic.length;
  const header = Buffer.alloc(headerSize);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(3, 16); // shared object
  header.writeUInt16LE(62, 18); // x86-64
  header.writeBigUInt64LE(BigInt(headerSize), 32);
  header.writeUInt16LE(entrySize, 54);
  header.writeUInt16LE(2, 56);
  const segment = (type: number, offset: number, length: number): Buffer => {
    const entry = Buffer.alloc(entrySize);
    entry.writeUInt32LE(type, 0);
    entry.writeBigUInt64LE(BigInt(offset), 8);
    entry.writeBigUInt64LE(BigInt(base + offset), 16);
    entry.writeBigUInt64LE(BigInt(length), 32);
    return entry;
  };
  return Buffer.concat([header, segment(1, 0, size), segment(2, dynamicAt, dynamic.length), names, dynamic]);
}
