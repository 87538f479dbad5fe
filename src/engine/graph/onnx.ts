/** A small ONNX graph builder and its protobuf encoding: the part of onnx.proto3 we need. */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

export const DATA_TYPE = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9, float16: 10 } as const;
export type DataType = keyof typeof DATA_TYPE;
/** A number is a fixed size, a string names a dynamic one. */
export type Dim = number | string;
export type Attribute = { int: number } | { float: number } | { ints: readonly number[] } | { graph: Graph };
export type Attributes = Readonly<Record<string, Attribute>>;

const ATTRIBUTE_TYPE = { float: 1, int: 2, graph: 5, ints: 7 } as const;
const IR_VERSION = 9;
/** Version of the ONNX operator set all node definitions refer to. */
const OPSET = 20;
const EXTERNAL = 1;

interface TensorHead {
  readonly name: string;
  readonly type: DataType;
  readonly dims: readonly number[];
}

/** A constant whose bytes lie in a file beside the model's. */
export interface ExternalTensor extends TensorHead {
  /** Name of the file, in the model's folder. */
  readonly file: string;
  /** First byte, and number of bytes. */
  readonly position: number;
  readonly bytes: number;
}

/** Subgraphs see the values of the graphs around them; constants lie in the outermost graph. */
export class Graph {
  readonly #root: Graph;
  readonly #nodes: Uint8Array[] = [];
  readonly #inputs: Uint8Array[] = [];
  readonly #outputs: Uint8Array[] = [];
  readonly #constants = new Map<string, TensorHead & { readonly bytes: Uint8Array }>();
  readonly #external: ExternalTensor[] = [];
  readonly #used = new Set<string>();
  #counter = 0;

  /** @param root the outermost graph; this one, unless it is a subgraph */
  constructor(root?: Graph) {
    this.#root = root ?? this;
  }

  subgraph(): Graph {
    return new Graph(this.#root);
  }

  /** Declares an input and returns its name; without `dims` its shape is left open. */
  input(name: string, type: DataType, dims?: readonly Dim[]): string {
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: DataType, dims?: readonly Dim[]): void {
    this.#outputs.push(valueInfo(name, type, dims));
  }

  /** Constant of shape [values.length], or a scalar when given one number. */
  int64(values: number | readonly number[]): string {
    const scalar = typeof values === "number";
    const data = BigInt64Array.from(scalar ? [values] : values, BigInt);
    return this.#constant(
      `int64(${scalar ? values : `[${values.join(",")}]`})`,
      "int64",
      scalar ? [] : [data.length],
      data,
    );
  }

  int32(value: number): string {
    return this.#constant(`int32(${value})`, "int32", [], Int32Array.of(value));
  }

  uint8(value: number): string {
    return this.#constant(`uint8(${value})`, "uint8", [], Uint8Array.of(value));
  }

  float(value: number): string {
    return this.#constant(`float32(${value})`, "float32", [], Float32Array.of(value));
  }

  /** float32 constant of any shape. */
  tensor(name: string, dims: readonly number[], data: Float32Array): string {
    return this.#constant(name, "float32", dims, data);
  }

  /** Declares an outermost constant, left out when unused. The session must come from a path. */
  externalTensor(tensor: ExternalTensor): void {
    this.#root.#external.push(tensor);
  }

  /** `x` as another type; itself when it has that type already. */
  cast(x: string, from: DataType, to: DataType): string {
    return from === to ? x : this.node("Cast", [x], { to: { int: DATA_TYPE[to] } });
  }

  /** Adds a node, returns its output. `op` is "Name", or "domain::Name" outside ONNX's domain. */
  node(op: string, inputs: readonly string[], attributes: Attributes = {}): string {
    const output = this.fresh(op);
    this.nodeTo([output], op, inputs, attributes);
    return output;
  }

  /** A new value name, for `nodeTo`. */
  fresh(hint: string): string {
    return `${hint.slice(hint.lastIndexOf(":") + 1)}.${this.#root.#counter++}`;
  }

  /** As `node`, with named outputs; "" leaves an optional output out. */
  nodeTo(outputs: readonly string[], op: string, inputs: readonly string[], attributes: Attributes = {}): void {
    const separator = op.indexOf("::");
    const type = separator < 0 ? op : op.slice(separator + 2);
    const w = new BinaryWriter();
    for (const input of inputs) {
      this.#root.#used.add(input);
      w.tag(1, WireType.LengthDelimited).string(input);
    }
    for (const output of outputs) w.tag(2, WireType.LengthDelimited).string(output);
    w.tag(3, WireType.LengthDelimited).string(`n.${outputs[0]}`);
    w.tag(4, WireType.LengthDelimited).string(type);
    for (const [name, value] of Object.entries(attributes)) {
      w.tag(5, WireType.LengthDelimited).bytes(attributeProto(name, value));
    }
    if (separator >= 0) w.tag(7, WireType.LengthDelimited).string(op.slice(0, separator));
    this.#nodes.push(w.finish());
  }

  /** The serialized ModelProto with this graph as its main graph. */
  encodeModel(): Uint8Array {
    const w = new BinaryWriter();
    w.tag(1, WireType.Varint).int64(IR_VERSION);
    w.tag(2, WireType.LengthDelimited).string("finellama-rl");
    w.tag(7, WireType.LengthDelimited).bytes(this.encode("main"));
    for (const [domain, version] of [["", OPSET] as const, ["com.microsoft", 1] as const]) {
      w.tag(8, WireType.LengthDelimited).fork();
      w.tag(1, WireType.LengthDelimited).string(domain);
      w.tag(2, WireType.Varint).int64(version);
      w.join();
    }
    return w.finish();
  }

  encode(name: string): Uint8Array {
    const w = new BinaryWriter();
    for (const node of this.#nodes) w.tag(1, WireType.LengthDelimited).bytes(node);
    w.tag(2, WireType.LengthDelimited).string(name);
    for (const { bytes, ...head } of this.#constants.values())
      writeHead(w.tag(5, WireType.LengthDelimited).fork(), head).tag(9, WireType.LengthDelimited).bytes(bytes).join();
    for (const tensor of this.#external) {
      if (this.#used.has(tensor.name)) w.tag(5, WireType.LengthDelimited).bytes(externalProto(tensor));
    }
    for (const input of this.#inputs) w.tag(11, WireType.LengthDelimited).bytes(input);
    for (const output of this.#outputs) w.tag(12, WireType.LengthDelimited).bytes(output);
    return w.finish();
  }

  #constant(
    name: string,
    type: DataType,
    dims: readonly number[],
    { buffer, byteOffset, byteLength }: ArrayBufferView,
  ): string {
    this.#root.#constants.set(name, { name, type, dims, bytes: new Uint8Array(buffer, byteOffset, byteLength) });
    return name;
  }
}

function valueInfo(name: string, type: DataType, dims?: readonly Dim[]): Uint8Array {
  const w = new BinaryWriter();
  w.tag(1, WireType.LengthDelimited).string(name);
  w.tag(2, WireType.LengthDelimited).fork(); // TypeProto
  w.tag(1, WireType.LengthDelimited).fork(); // TypeProto.Tensor
  w.tag(1, WireType.Varint).int32(DATA_TYPE[type]);
  if (dims !== undefined) {
    w.tag(2, WireType.LengthDelimited).fork(); // TensorShapeProto
    for (const dim of dims) {
      w.tag(1, WireType.LengthDelimited).fork();
      if (typeof dim === "number") w.tag(1, WireType.Varint).int64(dim);
      else w.tag(2, WireType.LengthDelimited).string(dim);
      w.join();
    }
    w.join();
  }
  return w.join().join().finish();
}

function writeHead(w: BinaryWriter, { name, type, dims }: TensorHead): BinaryWriter {
  for (const dim of dims) w.tag(1, WireType.Varint).int64(dim);
  w.tag(2, WireType.Varint).int32(DATA_TYPE[type]);
  return w.tag(8, WireType.LengthDelimited).string(name);
}

function externalProto({ file, position, bytes, ...head }: ExternalTensor): Uint8Array {
  const w = writeHead(new BinaryWriter(), head);
  for (const [key, value] of Object.entries({ location: file, offset: position, length: bytes })) {
    w.tag(13, WireType.LengthDelimited).fork(); // StringStringEntryProto
    w.tag(1, WireType.LengthDelimited).string(key);
    w.tag(2, WireType.LengthDelimited).string(String(value));
    w.join();
  }
  return w.tag(14, WireType.Varint).int32(EXTERNAL).finish();
}

function attributeProto(name: string, value: Attribute): Uint8Array {
  const w = new BinaryWriter();
  w.tag(1, WireType.LengthDelimited).string(name);
  if ("float" in value) w.tag(2, WireType.Bit32).float(value.float);
  else if ("int" in value) w.tag(3, WireType.Varint).int64(value.int);
  else if ("graph" in value) w.tag(6, WireType.LengthDelimited).bytes(value.graph.encode(name));
  else for (const item of value.ints) w.tag(8, WireType.Varint).int64(item);
  const kind = Object.keys(value)[0] as keyof typeof ATTRIBUTE_TYPE;
  w.tag(20, WireType.Varint).int32(ATTRIBUTE_TYPE[kind]);
  return w.finish();
}
