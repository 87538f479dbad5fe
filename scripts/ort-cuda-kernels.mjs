/**
 * Reads onnxruntime's table of kernels (docs/OperatorKernels.md of microsoft/onnxruntime) and prints, as JSON, what the
 * CUDA provider has for one version of the ONNX operator set: test/golden/ort_cuda_kernels.json.
 * node scripts/ort-cuda-kernels.mjs OperatorKernels.md "version and commit of the file" > test/golden/ort_cuda_kernels.json
 */
import { readFileSync } from "node:fs";

const OPSET = { "ai.onnx": 20, "com.microsoft": 1 };
const [file, source] = process.argv.slice(2);
if (source === undefined) {
  console.error("expected two arguments: OperatorKernels.md, and the version and commit it is from");
  process.exit(1);
}
const text = readFileSync(file, "utf8");
const begin = text.indexOf('<a name="cudaexecutionprovider"/>');
const lines = text.slice(begin, text.indexOf("<a name=", begin + 1)).split("\n");

const kernels = {};
let domain = "";
let name = "";
let inputs = [];
for (const line of lines) {
  const domainLine = /^\|\*\*Operator Domain:\*\* \*(.+?)\*/.exec(line);
  if (domainLine) domain = domainLine[1];
  const row = /^\|(\w*)\|(.*?)\|(\d+\+|\d+|\[\d+, \d+\])\|(.*)\|$/.exec(line);
  if (!row || !(domain in OPSET)) continue;
  const [, operator, parameters, range, types] = row;
  if (operator !== "") {
    name = operator;
    // Each way of calling: the type parameters of its inputs, in order ("T"), or types ("tensor(int64)").
    inputs = parameters
      .split("<br><br>or<br><br>")
      .map((way) => [...way.matchAll(/\*in\* [\w.]+:\*\*(.+?)\*\*/g)].map((match) => match[1]));
  }
  const [first, last = range.endsWith("+") ? Infinity : first] = range.match(/\d+/g).map(Number);
  if (OPSET[domain] < first || OPSET[domain] > last) continue;
  const constraints = Object.fromEntries(
    types.split("<br/> ").map((constraint) => {
      const [, parameter, list] = /^\*\*(\w+)\*\* = (.*)$/.exec(constraint);
      const tensors = list.split(", ").flatMap((type) => /^tensor\((\w+)\)$/.exec(type)?.[1] ?? []);
      return [parameter, tensors.join(" ")];
    }),
  );
  kernels[domain === "ai.onnx" ? name : `${domain}::${name}`] = { opsets: range, inputs, types: constraints };
}
console.log(`{"source": ${JSON.stringify(source)}, "opset": ${JSON.stringify(OPSET)}, "kernels": {`);
console.log(
  Object.entries(kernels)
    .map(([operator, kernel]) => `${JSON.stringify(operator)}: ${JSON.stringify(kernel)}`)
    .join(",\n"),
);
console.log("}}");
