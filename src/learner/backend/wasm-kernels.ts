/**
 * Kernels that make TensorFlow.js's wasm backend fit for training: one it lacks (the gradient of
 * `gather`), two that give wrong values, and faster ones: a step is about eight times faster.
 * Knows its internals (4.22): every tensor is a span of one heap, known to C++ by an integer id.
 */
import type { DataId, NamedAttrMap, NamedTensorInfoMap, TensorInfo } from "@tensorflow/tfjs";
import type { TF } from "./backend.js";

interface WasmBackend {
  wasm: {
    HEAPU8: Uint8Array;
    cwrap(name: string, returns: null, args: ("number" | "array")[]): (...args: unknown[]) => void;
    tfjs: { registerTensor(id: number, size: number, offset: number): void; disposeData(id: number): void };
  };
  dataIdMap: { get(dataId: DataId): { id: number; memoryOffset: number } };
  dataIdNextNumber: number;
  makeOutput(shape: number[], dtype: string): TensorInfo;
  typedArrayFromHeap(tensor: TensorInfo): Float32Array | Int32Array | Uint8Array;
  incRef(dataId: DataId): void;
  disposeData(dataId: DataId): boolean;
}

interface KernelArgs {
  inputs: NamedTensorInfoMap;
  attrs: NamedAttrMap;
  backend: WasmBackend;
}
type Kernel = (args: KernelArgs) => TensorInfo | TensorInfo[];

const overridden = new WeakSet<object>();

/** Replaces kernels of the wasm backend, the current one. Doing it again is harmless. */
export function overrideWasmKernels(tf: TF): void {
  const backend = tf.backend() as unknown as WasmBackend;
  if (overridden.has(backend)) return;
  overridden.add(backend);

  const stock = (name: string): Kernel => {
    const config = tf.getKernel(name, "wasm");
    return (args) => config.kernelFunc(args);
  };
  const replace = (kernelName: string, kernel: Kernel) => {
    if (tf.getKernel(kernelName, "wasm")) tf.unregisterKernel(kernelName, "wasm");
    tf.registerKernel({ kernelName, backendName: "wasm", kernelFunc: (args) => kernel(args as unknown as KernelArgs) });
  };

  replace("UnsortedSegmentSum", unsortedSegmentSum); // missing
  replace("Cast", cast); // wrong to bool
  replace("OneHot", oneHot); // wrong unless int32
  replace("BatchMatMul", batchMatMul(tf, backend, stock("Transpose"))); // the rest are slow
  replace("GatherV2", gatherRows(tf, stock("GatherV2")));
  replace("Sum", sumOuterOrInnerAxes(tf, stock("Sum"))); // slow, or inexact
  replace("Identity", identity);
  replace("Slice", (args) => {
    const x = input(args, "x");
    const { begin: from, size: of } = args.attrs as Record<"begin" | "size", number[]>;
    const [begin, size] = tf.slice_util.parseSliceParams(x, from!, of!) as [number[], number[]];
    return slice(args.backend, x, begin, size);
  });
  replace("SplitV", splitV(tf));
}

/** Batched matrix product: the C++ kernel (XNNPACK) is fast for one untransposed pair. */
function batchMatMul(tf: TF, backend: WasmBackend, stockTranspose: Kernel): Kernel {
  const [number, array] = ["number", "array"] as const;
  const operand = [number, array, number] as const;
  const multiply = backend.wasm.cwrap("BatchMatMul", null, [...operand, ...operand, number, number, number]);

  return (args) => {
    const a = matrices(input(args, "a"), args.attrs["transposeA"] === true);
    const b = matrices(input(args, "b"), args.attrs["transposeB"] === true);
    const inner = a.columns;
    if (b.rows !== inner) throw new Error(`matMul: inner sizes ${inner} and ${b.rows} differ`);
    const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(a.batchShape, b.batchShape);
    const out = backend.makeOutput([...batchShape, a.rows, b.columns], "float32");
    if (sizeOf(out.shape) === 0) return out;
    if (inner === 0) {
      backend.typedArrayFromHeap(out).fill(0);
      return out;
    }

    const [aData, bData] = [a, b].map(({ data, transposed, rows, columns }) => {
      if (transposed && rows > 1 && columns > 1)
        return stockTranspose({ inputs: { x: data }, attrs: { perm: [0, 2, 1] }, backend }) as TensorInfo;
      backend.incRef(data.dataId); // as it is: transposing a vector moves nothing
      return data;
    }) as [TensorInfo, TensorInfo];
    const alias = ({ dataId }: TensorInfo, start: number, size: number): number => {
      const id = backend.dataIdNextNumber++;
      const { memoryOffset } = backend.dataIdMap.get(dataId);
      backend.wasm.tfjs.registerTensor(id, size, memoryOffset + Float32Array.BYTES_PER_ELEMENT * start);
      return id;
    };
    const product = (rows: number, aStart: number, bStart: number, outStart: number) => {
      const aId = alias(aData, aStart, rows * inner);
      const bId = alias(bData, bStart, inner * b.columns);
      const outId = alias(out, outStart, rows * b.columns);
      multiply(aId, shapeBytes([1, rows, inner]), 3, bId, shapeBytes([1, inner, b.columns]), 3, false, false, outId);
      for (const id of [aId, bId, outId]) backend.wasm.tfjs.disposeData(id); // frees XNNPACK's packed copy of b, too
    };

    if (sizeOf(b.batchShape) === 1) {
      product(sizeOf(a.batchShape) * a.rows, 0, 0, 0); // one b for all: the rows of every batch entry are rows of one matrix
    } else {
      const aIndex = broadcastIndices(a.batchShape, batchShape);
      const bIndex = broadcastIndices(b.batchShape, batchShape);
      for (let i = 0; i < aIndex.length; i++) {
        product(a.rows, aIndex[i]! * a.rows * inner, bIndex[i]! * inner * b.columns, i * a.rows * b.columns);
      }
    }
    backend.disposeData(aData.dataId);
    backend.disposeData(bData.dataId);
    return out;
  };
}

/** An operand as [batches, ., .] as it is stored, with its rows and columns in the product. */
function matrices(x: TensorInfo, transposed: boolean) {
  if (x.dtype !== "float32") throw new Error(`matMul of ${x.dtype} is not supported on wasm`);
  const batchShape = x.shape.slice(0, -2);
  const [stored, width] = x.shape.slice(-2) as [number, number];
  const data: TensorInfo = { dataId: x.dataId, shape: [sizeOf(batchShape), stored, width], dtype: x.dtype };
  return { data, transposed, batchShape, rows: transposed ? width : stored, columns: transposed ? stored : width };
}

/** For each entry of `to` in row-major order, the index of the entry of `from` it is made of. */
function broadcastIndices(from: number[], to: number[]): number[] {
  let indices = [0];
  for (const [axis, size] of to.entries()) {
    const fromSize = from[axis - (to.length - from.length)] ?? 1;
    indices = indices.flatMap((index) =>
      Array.from({ length: size }, (_, i) => index * fromSize + (fromSize === 1 ? 0 : i)),
    );
  }
  return indices;
}

/** out[s] = Σ of x[i] with segmentIds[i] = s, negative ids nowhere: the gradient of `gather`. */
const unsortedSegmentSum: Kernel = (args) => {
  const { backend, attrs } = args;
  const [x, segmentIds] = [input(args, "x"), input(args, "segmentIds")];
  const segments = attrs["numSegments"] as number;
  const rowShape = x.shape.slice(segmentIds.shape.length);
  const width = sizeOf(rowShape);
  const out = backend.makeOutput([segments, ...rowShape], x.dtype);
  const from = backend.typedArrayFromHeap(x) as Float32Array;
  const sum = backend.typedArrayFromHeap(out) as Float32Array;
  const ids = backend.typedArrayFromHeap(segmentIds) as Int32Array;
  sum.fill(0);
  for (let row = 0; row < ids.length; row++) {
    const segment = ids[row]!;
    if (segment < 0) continue;
    if (segment >= segments) throw new Error(`UnsortedSegmentSum: segment ${segment} is not below ${segments}`);
    const [source, target] = [row * width, segment * width];
    for (let i = 0; i < width; i++) sum[target + i]! += from[source + i]!;
  }
  return out;
};

/** Gather along axis 0 as copies of rows; everything else is left to the stock kernel. */
function gatherRows(tf: TF, stock: Kernel): Kernel {
  return (args) => {
    const { backend, attrs } = args;
    const [x, indices] = [input(args, "x"), input(args, "indices")];
    const axis = tf.util.parseAxisParam(attrs["axis"] as number, x.shape)[0];
    if (axis !== 0 || attrs["batchDims"] !== 0 || x.dtype === "string") return stock(args);
    const rowShape = x.shape.slice(1);
    const width = sizeOf(rowShape);
    const out = backend.makeOutput([...indices.shape, ...rowShape], x.dtype);
    const from = backend.typedArrayFromHeap(x) as Float32Array;
    const to = backend.typedArrayFromHeap(out) as Float32Array;
    const rows = backend.typedArrayFromHeap(indices) as Int32Array;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i]!;
      if (row < 0 || row >= x.shape[0]!)
        throw new Error(`GatherV2: the index ${row} is not in [0, ${x.shape[0]! - 1}]`);
      if (width === 1) to[i] = from[row]!;
      else to.set(from.subarray(row * width, (row + 1) * width), i * width);
    }
    return out;
  };
}

/** From here on a row is summed in float64. */
const LONG_ROW = 1024;

/**
 * Sums over leading axes without a transpose, and over long trailing axes in float64 (twice the
 * time): the stock float32 sum of a softmax over 49,152 tokens is off by 3e-4 nats.
 */
function sumOuterOrInnerAxes(tf: TF, stock: Kernel): Kernel {
  return (args) => {
    const { backend, attrs } = args;
    const x = input(args, "x");
    const axes = tf.util.parseAxisParam(attrs["axis"] as number | number[], x.shape).sort((a, b) => a - b);
    const first = x.shape.length - axes.length;
    const inner = axes.every((axis, i) => axis === first + i);
    const outer = axes.every((axis, i) => axis === i);
    if (x.dtype !== "float32" || axes.length === 0 || !(inner || outer) || sizeOf(x.shape) === 0) return stock(args);
    const kept = inner ? x.shape.slice(0, first) : x.shape.slice(axes.length);
    if (inner && sizeOf(x.shape) < LONG_ROW * sizeOf(kept)) return stock(args);
    const ones = axes.map(() => 1);
    const keptDims = inner ? [...kept, ...ones] : [...ones, ...kept];
    const from = backend.typedArrayFromHeap(x) as Float32Array;
    const sums = inner ? rowSums(from, sizeOf(kept)) : columnSums(from, sizeOf(kept));
    const out = backend.makeOutput(attrs["keepDims"] === true ? keptDims : kept, x.dtype);
    backend.typedArrayFromHeap(out).set(sums);
    return out;
  };
}

function rowSums(from: Float32Array, rows: number): Float64Array {
  const width = from.length / rows;
  const sums = new Float64Array(rows);
  for (let row = 0, i = 0; row < rows; row++) {
    let sum = 0;
    for (const end = i + width; i < end; i++) sum += from[i]!;
    sums[row] = sum;
  }
  return sums;
}

function columnSums(from: Float32Array, width: number): Float64Array {
  const sums = new Float64Array(width);
  for (let start = 0; start < from.length; start += width) {
    for (let i = 0; i < width; i++) sums[i]! += from[start + i]!;
  }
  return sums;
}

/** The same data under one more name: tensors are immutable, so it is as good as a copy. */
const identity: Kernel = (args) => {
  const x = input(args, "x");
  args.backend.incRef(x.dataId);
  return { dataId: x.dataId, shape: x.shape, dtype: x.dtype };
};

/** Casts float32, int32 (towards zero) and bool, where the stock kernel takes values modulo 256. */
const cast: Kernel = (args) => {
  const { backend, attrs } = args;
  const x = input(args, "x");
  const dtype = attrs["dtype"] as TensorInfo["dtype"];
  if (dtype === x.dtype) return identity(args);
  const out = backend.makeOutput(x.shape, dtype);
  const [from, to] = [backend.typedArrayFromHeap(x), backend.typedArrayFromHeap(out)];
  if (dtype === "bool") for (let i = 0; i < to.length; i++) to[i] = from[i] === 0 ? 0 : 1;
  else to.set(from);
  return out;
};

/** `onValue` where the last axis equals the index, else `offValue`; also for indices outside. */
const oneHot: Kernel = (args) => {
  const { backend, attrs } = args;
  const indices = input(args, "indices");
  const [depth, onValue, offValue] = [attrs["depth"], attrs["onValue"], attrs["offValue"]] as [number, number, number];
  const out = backend.makeOutput([...indices.shape, depth], attrs["dtype"] as TensorInfo["dtype"]);
  const [at, to] = [backend.typedArrayFromHeap(indices), backend.typedArrayFromHeap(out)];
  to.fill(offValue);
  for (let i = 0; i < at.length; i++) if (at[i]! >= 0 && at[i]! < depth) to[i * depth + at[i]!] = onValue;
  return out;
};

function splitV(tf: TF): Kernel {
  return (args) => {
    const x = input(args, "x");
    const axis = tf.util.parseAxisParam(args.attrs["axis"] as number, x.shape)[0]!;
    const begin = x.shape.map(() => 0);
    return tf.backend_util
      .prepareSplitSize(x as never, args.attrs["numOrSizeSplits"] as number[] | number, axis)
      .map((size) => {
        const part = slice(args.backend, x, begin, x.shape.with(axis, size));
        begin[axis]! += size;
        return part;
      });
  };
}

/** Copies a box out of x, run by run; the stock kernel first copies all of x. */
function slice(backend: WasmBackend, x: TensorInfo, begin: number[], size: number[]): TensorInfo {
  const out = backend.makeOutput(size, x.dtype);
  if (sizeOf(size) === 0) return out;
  const [from, to] = [backend.typedArrayFromHeap(x), backend.typedArrayFromHeap(out)];
  // A run is contiguous in x: the last axis that is cut, and all whole axes after it.
  let axis = x.shape.length - 1;
  while (axis > 0 && size[axis] === x.shape[axis]) axis--;
  const run = sizeOf(size.slice(Math.max(axis, 0)));
  const strides = x.shape.map((_, i) => sizeOf(x.shape.slice(i + 1)));
  let written = 0;
  const copy = (depth: number, start: number): void => {
    if (depth >= axis) {
      const first = depth < x.shape.length ? start + begin[depth]! * strides[depth]! : start;
      if (run < 16) for (let i = 0; i < run; i++) to[written + i] = from[first + i]!;
      else to.set(from.subarray(first, first + run), written);
      written += run;
      return;
    }
    for (let i = 0; i < size[depth]!; i++) copy(depth + 1, start + (begin[depth]! + i) * strides[depth]!);
  };
  copy(0, 0);
  return out;
}

function input(args: KernelArgs, name: string): TensorInfo {
  const tensor = args.inputs[name];
  if (tensor === undefined) throw new Error(`kernel called without its input ${name}`);
  return tensor;
}

const sizeOf = (shape: number[]): number => shape.reduce((product, size) => product * size, 1);

const shapeBytes = (shape: number[]): Uint8Array => new Uint8Array(new Int32Array(shape).buffer);
