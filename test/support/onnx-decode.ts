/**
 * Reads an encoded ONNX graph back (field numbers of onnx.proto3): nodes, subgraphs, and the
 * element type of every value.
 */
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

export interface OnnxNode {
  readonly name: string;
  /** With its domain, unless that is ONNX's own. */
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** The attribute `to`, a TensorProto.DataType. */
  readonly to: number | undefined;
  readonly subgraphs: readonly OnnxGraph[];
}

export interface OnnxGraph {
  readonly nodes: OnnxNode[];
  /** TensorProto.DataType of inputs and constants, by name. */
  readonly types: Map<string, number>;
  readonly constants: Set<string>;
  /** Names with declared types. */
  readonly outputs: { name: string; type: number }[];
}

type Field = { bytes: Uint8Array } | { int: number };

function fields(bytes: Uint8Array): [number, Field][] {
  const reader = new BinaryReader(bytes);
  const found: [number, Field][] = [];
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (wire === WireType.LengthDelimited) found.push([field, { bytes: reader.bytes() }]);
    else if (wire === WireType.Varint) found.push([field, { int: Number(reader.int64()) }]);
    else reader.skip(wire);
  }
  return found;
}

const text = (field: Field): string => ("bytes" in field ? new TextDecoder().decode(field.bytes) : "");
const inner = (field: Field): [number, Field][] => ("bytes" in field ? fields(field.bytes) : []);
const one = (list: [number, Field][], number: number): Field | undefined =>
  list.find(([field]) => field === number)?.[1];
const int = (field: Field | undefined): number => (field !== undefined && "int" in field ? field.int : 0);

/** The main graph of a ModelProto. */
export function decodeModel(model: Uint8Array): OnnxGraph {
  return decodeGraph(one(fields(model), 7)!);
}

/** Version of each operator set that a ModelProto imports, by domain. */
export function decodeOpsets(model: Uint8Array): Record<string, number> {
  const imports = fields(model).flatMap(([field, value]) => (field === 8 ? [inner(value)] : []));
  return Object.fromEntries(
    imports.map((opset) => {
      const domain = one(opset, 1);
      return [domain === undefined ? "" : text(domain), int(one(opset, 2))];
    }),
  );
}

function decodeGraph(proto: Field): OnnxGraph {
  const graph: OnnxGraph = { nodes: [], types: new Map(), constants: new Set(), outputs: [] };
  for (const [field, value] of inner(proto)) {
    if (field === 1) graph.nodes.push(decodeNode(inner(value)));
    if (field === 5) {
      const tensor = inner(value);
      graph.types.set(text(one(tensor, 8)!), int(one(tensor, 2)));
      graph.constants.add(text(one(tensor, 8)!));
    }
    if (field === 11 || field === 12) {
      const info = inner(value);
      const type = int(one(inner(one(inner(one(info, 2)!), 1)!), 1)); // TypeProto.tensor_type.elem_type
      const name = text(one(info, 1)!);
      if (field === 11) graph.types.set(name, type);
      else graph.outputs.push({ name, type });
    }
  }
  return graph;
}

function decodeNode(node: [number, Field][]): OnnxNode {
  const all = (number: number) => node.filter(([field]) => field === number).map(([, value]) => value);
  const attributes = all(5).map((attribute) => inner(attribute));
  const domain = all(7).map(text)[0];
  const to = attributes.find((attribute) => text(one(attribute, 1)!) === "to");
  return {
    name: all(3).map(text)[0] ?? "",
    op: domain === undefined ? text(all(4)[0]!) : `${domain}::${text(all(4)[0]!)}`,
    inputs: all(1).map(text),
    outputs: all(2).map(text),
    to: to === undefined ? undefined : int(one(to, 3)),
    subgraphs: attributes.flatMap((attribute) =>
      attribute.filter(([field]) => field === 6).map(([, graph]) => decodeGraph(graph)),
    ),
  };
}
