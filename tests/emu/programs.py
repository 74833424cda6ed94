"""Builds programs of emulated kernels: plain, for AddressSanitizer with UBSan, for ThreadSanitizer; and the
extension module _cuda on emulated kernels, which is for tests alone and in no wheel.

`python tests/emu/programs.py zoo address` prints the path of the program.  Objects live in build/emu under a
digest of all that may go into them, so that nothing is built twice and nothing stale is run.  EMU_JOBS
compilers run at a time, as many as there are CPUs if it is not set.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pybind11

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "emu"
EMULATOR = sorted((ROOT / "tests" / "emu" / "emulator").glob("*.cpp"))
PROGRAMS = {
    "zoo": ROOT / "tests" / "emu" / "zoo.cu",
    "conformance": ROOT / "tests" / "cuda" / "conformance.cu",
    "stepwise": ROOT / "tests" / "cuda" / "stepwise.cu",
    "heads": ROOT / "tests" / "cuda" / "heads.cu",
    "stack": ROOT / "tests" / "cuda" / "stack.cu",
}
BUILDS = ("plain", "address", "thread")

COMPILER = shlex.split(os.environ.get("CXX", "g++"))
COMMON = ["-std=c++17", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-DRNNKERNELS_EMULATOR"]
COMMON += ["-I", str(ROOT / "tests" / "emu"), "-Wno-unknown-pragmas"]
KERNELS = {
    "plain": ["-O1"],
    "address": [
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-ftrivial-auto-var-init=pattern",
    ],
    "thread": ["-O1", "-fsanitize=thread"],
}
# The emulator itself is never instrumented: it is the hardware.  No call of memcpy or memset either, which a
# sanitizer's own version would report.
HARDWARE = ["-O1", "-fno-builtin", "-fno-tree-loop-distribute-patterns"]
DEFINED = {"plain": [], "address": ["-DEMU_ADDRESS_SANITIZER"], "thread": ["-DEMU_THREAD_SANITIZER"]}
LINK = {"plain": [], "address": ["-fsanitize=address,undefined"], "thread": ["-fsanitize=thread"]}


def may_use(source: Path) -> list[Path]:
    """The files that may go into the object of a source: the emulator knows no kernels."""
    folders = ["tests/emu/emulator"]
    if source not in EMULATOR:
        folders += ["csrc/core", "csrc/cuda", "csrc/bindings" if source in BINDINGS else "tests/cuda"]
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    return [source, *sorted(file for file in files if file.suffix in {".h", ".cuh", ".inc"})]


def digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:  # warnings are errors
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


class Object(NamedTuple):
    """A source and how it is compiled."""

    source: Path
    flags: tuple[str, ...]

    def compile(self) -> Path:
        command = [*COMPILER, *COMMON, *self.flags, "-x", "c++", "-c", str(self.source)]
        name = f"{self.source.stem}-{digest([' '.join(command).encode()])}"
        target = BUILT / f"{name}-{digest(file.read_bytes() for file in may_use(self.source))}.o"
        if not target.exists():
            for old in BUILT.glob(f"{name}-*.o"):
                old.unlink()
            partial = target.with_suffix(".partial")
            run_compiler([*command, "-o", str(partial)])
            partial.rename(target)
        return target


class Program(NamedTuple):
    """One of PROGRAMS in one of BUILDS, perhaps with definitions that change the emulator."""

    name: str
    build: str
    definitions: tuple[str, ...] = ()

    def objects(self) -> list[Object]:
        hardware = (*HARDWARE, *DEFINED[self.build], *self.definitions)
        kernels = Object(PROGRAMS[self.name], tuple(KERNELS[self.build]))
        return [kernels, *(Object(source, hardware) for source in EMULATOR)]

    def path(self) -> Path:
        return BUILT / "-".join([self.name, self.build, *(d.removeprefix("-D") for d in self.definitions)])

    def link(self) -> list[str]:
        return LINK[self.build]


NUMBERS = re.findall(
    r"^RNNKERNELS_NUMBER\((\w+), (\w+)\)", (ROOT / "csrc/cuda/numbers.inc").read_text(), re.M
)
OF_CORE = {"cpu_backend", "execution", "module", "packed"}
BINDINGS = sorted(file for file in (ROOT / "csrc" / "bindings").glob("*.cpp") if file.stem not in OF_CORE)
INCLUDES = [pybind11.get_include(), sysconfig.get_paths()["include"]]


class Module(NamedTuple):
    """rnnkernels._cuda on emulated kernels; of the sanitized build for an interpreter that runs under one."""

    build: str = "address" if os.environ.get("RNNKERNELS_SANITIZED") == "address" else "plain"

    def objects(self) -> list[Object]:
        def of(source: str, *more: str) -> Object:
            return Object(ROOT / source, ("-fPIC", *KERNELS[self.build], *more))

        bindings = (
            "-fvisibility=hidden", "-Wno-attributes", "-DRNNKERNELS_DEVICE_ARRAYS",
            "-DRNNKERNELS_MODULE=_cuda_emulated", '-DRNNKERNELS_CUDA_TARGETS="emulated"',
            *(part for folder in INCLUDES for part in ("-isystem", folder)),
        )  # fmt: skip
        definitions = [(f"-DRNNKERNELS_PASSES={name}", f"-DRNNKERNELS_TYPE={kind}") for name, kind in NUMBERS]
        hardware = ("-fPIC", *HARDWARE, *DEFINED[self.build])
        return [
            *(of("csrc/cuda/kernels.cu", *pair) for pair in definitions),
            *(of(source) for source in ("csrc/cuda/dispatch.cu", "csrc/cuda/blas.cpp", "csrc/traits.cpp")),
            *(of(str(source), *bindings) for source in BINDINGS),
            *(Object(source, hardware) for source in EMULATOR),
            of("tests/emu/module.cpp"),
        ]

    def path(self) -> Path:
        return BUILT / self.build / f"_cuda_emulated{importlib.machinery.EXTENSION_SUFFIXES[0]}"

    def link(self) -> list[str]:
        return ["-shared", *LINK[self.build]]

    def load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("_cuda_emulated", self.path())
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class Blas(NamedTuple):
    """The stand-in for cuBLASLt."""

    def objects(self) -> list[Object]:
        return [Object(ROOT / "tests" / "emu" / "cublaslt.cpp", ("-fPIC", "-O2"))]

    def path(self) -> Path:
        return BUILT / "libcublasLt.so"

    def link(self) -> list[str]:
        return ["-shared"]


@functools.cache
def missing() -> str:
    """What the compiler says where it cannot make all three builds: GCC 12 with its sanitizers can."""
    for build in BUILDS:
        command = [*COMPILER, *KERNELS[build], *LINK[build], "-x", "c++", "-", "-o", os.devnull]
        try:
            done = subprocess.run(command, input="int main() {}", capture_output=True, text=True)
        except OSError as error:
            return str(error)
        if done.returncode:
            return done.stderr
    return ""


@functools.cache
def build(programs: tuple[Program | Module | Blas, ...]) -> None:
    """Compiles what has changed, several objects at a time, and links."""
    BUILT.mkdir(parents=True, exist_ok=True)
    objects = list(dict.fromkeys(item for program in programs for item in program.objects()))
    jobs = int(os.environ.get("EMU_JOBS", os.cpu_count() or 1))
    with (BUILT / "lock").open("w") as lock, ThreadPoolExecutor(jobs) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiled = dict(zip(objects, pool.map(Object.compile, objects), strict=True))
        for program in programs:
            parts = [compiled[item] for item in program.objects()]
            target = program.path()
            target.parent.mkdir(exist_ok=True)
            if not target.exists() or target.stat().st_mtime < max(part.stat().st_mtime for part in parts):
                run_compiler([*COMPILER, *program.link(), *map(str, parts), "-o", str(target)])


PORTABLE = Program("conformance", "plain", ("-DEMU_UCONTEXT",))  # fibers as on other processors than x86-64
ALL = (*(Program(name, kind) for kind in BUILDS for name in PROGRAMS), PORTABLE, Module(), Blas())

if __name__ == "__main__":
    chosen = Program(sys.argv[1], sys.argv[2])
    build((chosen,))
    print(chosen.path())
