"""The arrows of docs/architecture.md: who may include or import whom; and the promises that no one test owns.

Sources and repository files are read from the checkout; the package that is imported may be installed
elsewhere.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnnkernels
from rnnkernels import reference

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "rnnkernels"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".inc", ".cuh", ".cu"})
MODULES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {"jax", "keras", "matplotlib", "onnx", "onnxruntime", "openvino", "rich", "safetensors", "torch"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- C++ ---------------------------------------------------------------------------------------------------

# folder (or file) of csrc -> what its files may include of csrc, and which headers from outside (None: any)
INCLUDES = {
    "api.h": ({"core/cells.inc"}, {"cstddef", "cstdint"}),
    "core": ({"core"}, {"cstddef", "cstdint"}),
    "traits.h": ({"api.h"}, set()),
    "traits.cpp": ({"traits.h", "core"}, set()),
    "cpu": ({"api.h", "traits.h", "core", "cpu"}, None),
    "cuda": ({"api.h", "traits.h", "core", "cuda"}, None),
    "bindings": (
        {
            "traits.h",
            "bindings",
            "cpu/dispatch.h",
            "cpu/scratch.h",
            "cuda/dispatch.h",
            "cuda/blas.h",
            "core/cells.inc",
        },
        None,
    ),
}
# What is compiled with instruction set flags may use no library code that the linker could share with other
# objects: headers of plain declarations alone.
PER_ISA = ("kernels.cpp", "half_kernels.cpp", "bf16_kernels.cpp", "int8_kernels.cpp")  # of csrc/cpu
PER_ISA_HEADERS = {"cmath", "cstddef", "cstdint", "cstring", "math.h", "immintrin.h", "arm_neon.h"}


def includes(path: Path) -> tuple[list[Path], list[str]]:
    text = path.read_text()
    own = [(path.parent / target).resolve() for target in re.findall(r'^#include "([^"]+)"', text, re.M)]
    return own, re.findall(r"^#include <([^>]+)>", text, re.M)


def allows(allowed: set[str], target: Path) -> bool:
    relative = target.relative_to(CSRC).as_posix()
    return any(relative == entry or relative.startswith(entry + "/") for entry in allowed)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_includes(path: Path) -> None:
    owner = path.relative_to(CSRC).parts[0]
    assert owner in INCLUDES, f"csrc/{owner} is no part of the house: add it to docs/architecture.md and here"
    allowed, allowed_outside = INCLUDES[owner]
    own, outside = includes(path)
    assert [target for target in own if not target.is_file()] == []
    assert [name(target) for target in own if not allows(allowed, target)] == []
    if allowed_outside is not None:
        assert set(outside) <= allowed_outside


def test_one_file_knows_the_device() -> None:
    """PTX, nvcc's headers and the emulator are device.cuh's; kernels are plain CUDA C++ on top of it."""
    known = re.compile(
        r"\basm\b|RNNKERNELS_EMULATOR|emulator/|__CUDA_ARCH__|__CUDACC__|<cuda_|<cooperative_groups"
    )
    device = CSRC / "cuda" / "device.cuh"
    kernels = [path for path in (CSRC / "cuda").rglob("*") if path != device]
    assert kernels
    assert known.search(device.read_text())
    assert [name(path) for path in kernels if known.search(path.read_text())] == []


@pytest.mark.parametrize("folder", ["csrc/cuda", "tests/cuda", "tests/emu"])
def test_device_sources_say_what_they_are(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".h", ".cpp", ".cuh", ".cu"}:
            lines = path.read_text().splitlines()
            assert lines[0].startswith("// "), name(path)
            assert max(map(len, lines)) <= 130, name(path)


def test_code_compiled_per_isa_uses_no_shared_library_code() -> None:
    reached, queue = set(), [*(CSRC / "cpu" / name for name in PER_ISA), *(CSRC / "cpu" / "isa").glob("*.h")]
    while queue:
        path = queue.pop()
        if path not in reached:
            reached.add(path)
            queue += includes(path)[0]
    outside = {header for path in reached for header in includes(path)[1]}
    assert outside <= PER_ISA_HEADERS
    assert len(reached) > 10  # the walk went through core and cpu


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize(
    ("file", "isa"),
    [
        (file, isa)
        for file in PER_ISA
        for isa in (["amx", "avx512bf16"] if file == "bf16_kernels.cpp" else ["avx2", "scalar"])
    ],
)
def test_no_symbol_of_an_isa_can_replace_another(file: str, isa: str, tmp_path: Path) -> None:
    """A weak symbol outside the inline namespace of the ISA could be merged into other objects."""
    if isa != "scalar" and os.uname().machine != "x86_64":
        pytest.skip(f"{isa} is of x86-64")
    avx2 = "-mavx2 -mfma -mf16c -mbmi -mbmi2"
    avx512 = f"{avx2} -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl"
    flags = {
        "scalar": "",
        "avx2": avx2,
        "avx512bf16": f"{avx512} -mavx512bf16",
        "amx": avx512,
    }[isa]
    settings = ["-std=c++17", "-O0", "-ffp-contract=off", "-fno-exceptions"]  # as cmake sets them
    compiler = [os.environ.get("CXX", "g++"), *settings, *flags.split()]
    definitions = ["-I", CSRC, f"-DRNNKERNELS_ISA={isa}", "-DRNNKERNELS_REAL=float", "-DRNNKERNELS_DTYPE=f32"]
    objects = tmp_path / "kernels.o"
    subprocess.run([*compiler, *definitions, "-c", CSRC / "cpu" / file, "-o", objects], check=True)
    listing = subprocess.run(["nm", objects], check=True, capture_output=True, text=True).stdout
    weak = [line.split(maxsplit=2)[2] for line in listing.splitlines() if re.match(r"[0-9a-f]+ [WVu] ", line)]
    assert weak
    namespace = f"10rnnkernels{len(isa)}{isa}"  # mangled; nm gives up on demangling the longest names
    assert [symbol for symbol in weak if namespace not in symbol] == []


def test_no_flag_lets_the_compiler_change_results() -> None:
    build_files = [ROOT / "CMakeLists.txt", ROOT / "CMakePresets.json", *(ROOT / "cmake").glob("*"), *SOURCES]
    forbidden = re.compile(
        r"-ffast-math|-Ofast|-funsafe-math|-fassociative-math|-freciprocal-math|-ffinite-math-only"
        r"|-fno-signed-zeros|-fno-trapping-math|-ffp-contract=(?!off)|-march=native|#pragma\s+STDC\s+FP_CONTRACT\s+ON"
        r"|GCC\s+optimize|_MM_SET_FLUSH_ZERO_MODE"
    )
    assert [(name(path), hit) for path in build_files for hit in forbidden.findall(path.read_text())] == []
    assert "-ffp-contract=off" in (ROOT / "cmake" / "CompileOptions.cmake").read_text()


# -- Python ------------------------------------------------------------------------------------------------

# part of the package -> which other parts it may import ("" is the package itself), and which packages from
# outside besides the standard library
IMPORTS: dict[str, tuple[set[str], set[str]]] = {
    "__init__": (
        {"_core", "cuda", "functional", "init", "layers", "optim", "options", "reference", "types"},
        set(),
    ),
    "__main__": ({"cli"}, set()),
    "types": (set(), {"numpy"}),
    "testing": (set(), {"numpy"}),
    "reference": ({"types"}, {"numpy"}),
    "options": ({"_core"}, {"numpy"}),
    "cuda": ({"_core", "_cuda", "options"}, {"numpy"}),
    "functional": ({"_core", "cuda", "options", "types"}, {"numpy"}),
    "init": (set(), {"numpy"}),
    "optim": ({"types"}, {"numpy"}),
    "layers": ({"functional", "init", "types", "_core", "options"}, {"numpy"}),
    "charlm": ({"functional", "init", "layers", "optim", "reference", "types"}, {"numpy", "safetensors"}),
    "bench": (
        {"", "functional", "reference", "testing", "types"},
        {"jax", "keras", "matplotlib", "ml_dtypes", "numpy", "onnx", "onnxruntime", "openvino", "torch"},
    ),
    "cli": (
        {"", "bench", "charlm", "cuda", "functional", "reference", "testing", "types"},
        {"matplotlib", "numpy", "rich", "safetensors"},
    ),
}


def imported(path: Path) -> tuple[set[str], set[str]]:
    """The parts of rnnkernels ("" is the package itself) and the outside packages that a file imports."""
    parts, outside = set(), set()
    package = ["rnnkernels", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] != "rnnkernels":
                outside.add(target[0])
            else:
                parts.add(target[1] if target[1] in {*IMPORTS, "_core", "_cuda"} else "")
    return parts, outside - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in IMPORTS, f"{part} is no part of the house: add it to docs/architecture.md and here"
    allowed, allowed_outside = IMPORTS[part]
    parts, outside = imported(path)
    assert parts - {part} <= allowed
    assert outside <= allowed_outside


def test_importing_the_package_imports_no_optional_package() -> None:
    code = "import sys, json, rnnkernels; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert {"numpy", "rnnkernels"} <= loaded
    assert loaded & OPTIONAL == set()


def test_no_pickle() -> None:
    """A model file is data: nothing that is read may run code."""
    forbidden = re.compile(
        r"\b(?:import (?:pickle|marshal|shelve)|allow_pickle=True|torch\.load|(?:eval|exec)\()"
    )
    assert [(name(path), hit) for path in MODULES for hit in forbidden.findall(path.read_text())] == []


# -- the public surface ------------------------------------------------------------------------------------

FUNCTIONS = sorted(function for function in reference.__all__ if re.search(r"_(forward|backward)$", function))


def test_reference_and_kernels_cover_the_same_functions() -> None:
    public = {function for function in rnnkernels.__all__ if re.search(r"_(forward|backward)$", function)}
    assert public == set(FUNCTIONS)
    assert len(FUNCTIONS) == 14


@pytest.mark.parametrize("function", FUNCTIONS)
def test_reference_and_kernel_have_one_signature(function: str) -> None:
    assert inspect.signature(getattr(rnnkernels, function)) == inspect.signature(getattr(reference, function))


def test_public_api_has_docstrings() -> None:
    missing = []
    for public in rnnkernels.__all__:
        item = getattr(rnnkernels, public)
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            continue
        if not inspect.getdoc(item):
            missing.append(public)
        if inspect.isclass(item) and not issubclass(item, tuple):
            methods = {key: value for key, value in vars(item).items() if inspect.isfunction(value)}
            missing += [f"{public}.{n}" for n, m in methods.items() if n[0] != "_" and not inspect.getdoc(m)]
    assert missing == []


# -- the repository ----------------------------------------------------------------------------------------


def test_readme_commands() -> None:
    """The two promised commands, which .ci/run takes from the README and runs."""
    commands = re.findall(r"^python3 -m venv \.venv && .*$", (ROOT / "README.md").read_text(), re.M)
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install '.[cli]' && .venv/bin/rnnkernels train",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'eval "$(readme_command 1) --steps' in ci
    assert 'eval "$(readme_command 2)"' in ci


def test_tools_have_one_version() -> None:
    """pre-commit and the lint extra, which continuous integration installs, use the same tools."""
    pinned = re.compile(r"\b(ruff|mypy|clang-format|codespell)==([0-9.]+)")
    in_hooks = set(pinned.findall((ROOT / ".pre-commit-config.yaml").read_text()))
    assert in_hooks == set(pinned.findall((ROOT / "pyproject.toml").read_text()))
    assert len(in_hooks) == 4


def test_version_is_one() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert rnnkernels.__version__ == version[1]
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
