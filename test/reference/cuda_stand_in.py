"""Builds stand-ins of the CUDA libraries that ONNX Runtime's CUDA provider links to, so that a session with that provider
can be made on a machine without a GPU: to read its kernel table, and where it would place a graph's nodes. Every function
does nothing and reports success, but for the few of cuda_stand_in.c. Nothing made with them has run on CUDA.

    pip install --no-deps -r test/reference/requirements-ort-cuda.txt
    python test/reference/cuda_stand_in.py FOLDER      # then LD_LIBRARY_PATH=FOLDER

The provider is that of the installed onnxruntime-gpu; FOLDER gets links to its libraries. Needs gcc, nm and readelf.
"""

import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PACKAGES = Path(sysconfig.get_paths()["purelib"])
# A function of such a name returns a new handle through its first argument.
CREATES = re.compile(r"Create|Instantiate")
# What a GPU would have to start: with CUDA_STAND_IN_CALLS set each is a line "call NAME" on stderr.
STARTS = re.compile(r"Launch|[Gg]emm|^cudnn(Reduce|Softmax|OpTensor|Backend)")
UNVERSIONED = ("libcuda.so.1", "libnvinfer.so.10", "libnvonnxparser.so.10")
TEMPLATE = """
#include <stdio.h>
#include <stdlib.h>
static char handle[4096];
static int ok(void) { return 0; }
static int creates(void **first) { *first = handle; return 0; }
static int call(const char *name) { return getenv("CUDA_STAND_IN_CALLS") ? (fprintf(stderr, "call %s\\n", name), 0) : 0; }
"""


def definition(name):
    if STARTS.search(name) and not CREATES.search(name):
        return f'int {name}() {{ return call("{name}"); }}'
    return f'int {name}() __attribute__((alias("{"creates" if CREATES.search(name) else "ok"}")));'


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def providers_of_wheel():
    return sorted((PACKAGES / "onnxruntime" / "capi").glob("libonnxruntime_providers_*.so"))


def headers():
    folder = PACKAGES / "nvidia"
    found = sorted({path.parent for name in ("cuda_runtime_api.h", "crt") for path in folder.rglob(name)})
    if not found:
        sys.exit(f"expected CUDA's headers under {folder}, found none: pip install nvidia-cuda-runtime nvidia-cuda-crt")
    return [part for path in found for part in ("-I", path)]


def functions_by_library(providers):
    """{library: its functions that the providers use}. cuDNN, which newer ones open by name, is found by their strings."""
    functions = defaultdict(set, {"libcuda.so.1": set(), "libcudnn.so.9": set()})
    for provider in providers:
        for library in re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv)\w+\.so\.\d+)\]", run("readelf", "-d", provider)):
            functions[library] |= set()
    for provider in providers:
        for line in run("nm", "-D", "--undefined-only", provider).splitlines():
            name, _, library = line.split()[-1].partition("@")
            if library in functions:
                functions[library].add(name)
            elif not library and re.match(r"cu[A-Z]", name):
                functions["libcuda.so.1"].add(name)
            elif not library and re.match(r"(create|get)(Infer|Nv|Plugin)", name):
                functions["libnvinfer.so.10"].add(name)
        names = re.findall(rb"(?<=\0)cudnn[A-Z]\w+(?=\0)", provider.read_bytes())
        functions["libcudnn.so.9"] |= {name.decode() for name in names}
    return functions


def build(providers, folder):
    folder.mkdir(parents=True, exist_ok=True)
    answering = folder / "cuda_stand_in.o"
    run("gcc", "-O1", "-fPIC", "-Wall", *headers(), "-c", SOURCE, "-o", answering)
    answered = {line.split()[-1] for line in run("nm", "--defined-only", "-g", answering).splitlines()}
    for library, names in functions_by_library(providers).items():
        code = folder / f"{library}.c"
        code.write_text(TEMPLATE + "\n".join(map(definition, sorted(names - answered))) + "\n")
        script = folder / f"{library}.map"
        script.write_text(f"{library} {{ global: *; }};\n")
        runtime = [answering] if library.startswith(("libcudart", "libcudnn")) else []
        version = ["-Wl,--version-script", script] if library not in UNVERSIONED else []
        run("gcc", "-shared", "-fPIC", "-w", code, *runtime, f"-Wl,-soname,{library}", *version, "-o", folder / library)
        code.unlink()
        script.unlink()
    answering.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    build(providers_of_wheel(), target)
    for library in providers_of_wheel():
        (target / library.name).symlink_to(library)
