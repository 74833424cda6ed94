"""Builds programs of emulated kernels: plain, for AddressSanitizer with UBSan, for ThreadSanitizer.

`python tests/emu/build.py zoo address` prints the path of the program.  Objects live in build/emu under a digest of all
that went into them, so that nothing is built twice and nothing stale is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "emu"
EMULATOR = sorted((ROOT / "tests" / "emu" / "emulator").glob("*.cpp"))
PROGRAMS = {"zoo": ROOT / "tests" / "emu" / "zoo.cu", "conformance": ROOT / "tests" / "cuda" / "conformance.cu"}
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
HARDWARE = ["-O2", "-fno-builtin", "-fno-tree-loop-distribute-patterns"]
DEFINED = {"plain": [], "address": ["-DEMU_ADDRESS_SANITIZER"], "thread": ["-DEMU_THREAD_SANITIZER"]}
LINK = {"plain": [], "address": ["-fsanitize=address,undefined"], "thread": ["-fsanitize=thread"]}


def sources() -> list[Path]:
    """Everything that a program may be made of."""
    folders = ("csrc/core", "csrc/cuda", "tests/emu", "tests/cuda")
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    return sorted(file for file in files if file.suffix in {".h", ".cuh", ".cu", ".cpp", ".inc"})


def digest(command: list[str]) -> str:
    parts = [" ".join(command).encode(), *(file.read_bytes() for file in sources())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def compile_object(source: Path, flags: list[str], folder: Path) -> Path:
    command = [*COMPILER, *COMMON, *flags, "-x", "c++", "-c", str(source)]
    target = folder / f"{source.stem}-{digest(command)}.o"
    if not target.exists():
        for old in folder.glob(f"{source.stem}-*.o"):
            old.unlink()
        partial = target.with_suffix(".partial")
        run_compiler([*command, "-o", str(partial)])
        partial.rename(target)
    return target


def program(name: str, build: str, extra: tuple[str, ...] = ()) -> Path:
    """The program `name` in one of the builds; `extra` are further definitions, in a folder of their own."""
    folder = BUILT / "-".join([build, *(flag.removeprefix("-D").lower() for flag in extra)])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        flags = [*HARDWARE, *DEFINED[build], *extra]
        objects = [compile_object(source, flags, folder) for source in EMULATOR]
        objects.append(compile_object(PROGRAMS[name], [*KERNELS[build], *extra], folder))
        target = folder / name
        newest = max(file.stat().st_mtime for file in objects)
        if not target.exists() or target.stat().st_mtime < newest:
            run_compiler([*COMPILER, *LINK[build], *map(str, objects), "-o", str(target)])
    return target


if __name__ == "__main__":
    print(program(sys.argv[1], sys.argv[2]))
