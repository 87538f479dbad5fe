"""Which kernels ONNX Runtime's CUDA provider registers, asked of the pinned release itself: test/golden/ort_cuda_kernels.json.

The question is the one from which onnxruntime's docs/OperatorKernels.md is made (tools/python/gen_opkernel_doc.py). It makes
a CUDA provider, hence the stand-in of CUDA's libraries (cuda_stand_in.py). No GPU is used, and nothing runs on CUDA.

    pip install --no-deps -r test/reference/requirements-ort-cuda.txt && python test/reference/ort_cuda_kernels.py

For each operator, in the version that ONNX Runtime would look up: since when it is so, the type parameters of its inputs and
outputs in order, and its kernels, each by the types it has for each parameter; those that differ in one are written as one.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import cuda_stand_in

OPSETS = {"": 20, "com.microsoft": 1}  # src/engine/graph/onnx.ts
OUT = Path(__file__).resolve().parents[1] / "golden" / "ort_cuda_kernels.json"
STAND_IN = "CUDA_STAND_IN"


def with_stand_in():
    """Starts this script again where the stand-ins are found: the loader reads LD_LIBRARY_PATH when a process starts."""
    with tempfile.TemporaryDirectory() as folder:
        cuda_stand_in.build(cuda_stand_in.providers_of_wheel(), Path(folder))
        environment = {**os.environ, STAND_IN: folder, "LD_LIBRARY_PATH": folder}
        sys.exit(os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], environment))


def tensors(types):
    return sorted(name[len("tensor(") : -1] for name in types if name.startswith("tensor("))


def joined(kernels):
    """Kernels that differ in one parameter, as one that has the types of both."""
    merged = True
    while merged:
        merged = False
        for i, a in enumerate(kernels):
            for b in kernels[i + 1 :]:
                differing = [parameter for parameter in a if a[parameter] != b.get(parameter)]
                if a.keys() != b.keys() or len(differing) > 1:
                    continue
                for parameter in differing:
                    a[parameter] = sorted({*a[parameter], *b[parameter]})
                kernels.remove(b)
                merged = True
                break
            if merged:
                break
    return kernels


def main():
    import onnxruntime
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    # The version of each operator that a graph of these operator sets means.
    schemas = {}
    for schema in state.get_all_operator_schema():
        key = (schema.domain, schema.name)
        if schema.domain in OPSETS and schema.since_version <= OPSETS[schema.domain]:
            if key not in schemas or schemas[key].since_version < schema.since_version:
                schemas[key] = schema

    registered = {}
    for kernel in state.get_all_opkernel_def():
        schema = schemas.get((kernel.domain, kernel.op_name))
        if kernel.provider != "CUDAExecutionProvider" or schema is None:
            continue
        first, last = kernel.version_range
        # kernel_registry.cc, VerifyKernelDef: a kernel without a last version serves its first one only.
        since = schema.since_version
        if not (first == since or (last < 2**31 - 1 and first <= since <= last)):
            continue
        types = {parameter: tensors(names) for parameter, names in kernel.type_constraints.items()}
        registered.setdefault((kernel.domain, kernel.op_name), []).append(types)

    count = sum(map(len, registered.values()))
    lines = []
    for (domain, name), kernels in sorted(registered.items()):
        schema = schemas[domain, name]
        entry = {
            "since": schema.since_version,
            "inputs": [parameter.typeStr for parameter in schema.inputs],
            "outputs": [parameter.typeStr for parameter in schema.outputs],
            "kernels": [{p: " ".join(types) for p, types in kernel.items()} for kernel in joined(kernels)],
        }
        lines.append(f"{json.dumps(f'{domain}::{name}' if domain else name)}: {json.dumps(entry, separators=(',', ':'))}")
    head = {"onnxruntime": onnxruntime.__version__, "build": onnxruntime.get_build_info(), "opsets": OPSETS}
    OUT.write_text(json.dumps(head)[:-1] + ', "operators": {\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{OUT}: {len(lines)} operators, {count} kernels")


if __name__ == "__main__":
    main() if os.environ.get("LD_LIBRARY_PATH") == os.environ.get(STAND_IN, "none") else with_stand_in()
