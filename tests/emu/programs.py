"""Builds programs of emulated kernels: plain, for AddressSanitizer with UBSan, for ThreadSanitizer.

`python tests/emu/programs.py zoo address` prints the path of the program.  Objects live in build/emu under a
digest of all that may go into them, so that nothing is built twice and nothing stale is run.  EMU_JOBS
compilers run at a time, as many as there are CPUs if it is not set.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "emu"
EMULATOR = sorted((ROOT / "tests" / "emu" / "emulator").glob("*.cpp"))
PROGRAMS = {
    "zoo": ROOT / "tests" / "emu" / "zoo.cu",
    "conformance": ROOT / "tests" / "cuda" / "conformance.cu",
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
        folders += ["csrc/core", "csrc/cuda", "tests/cuda"]
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    return [source, *sorted(file for file in files if file.suffix in {".h", ".cuh", ".inc"})]


def compile_object(source: Path, flags: list[str], folder: Path) -> Path:
    command = [*COMPILER, *COMMON, *flags, "-x", "c++", "-c", str(source)]
    parts = [" ".join(command).encode(), *(file.read_bytes() for file in may_use(source))]
    target = folder / f"{source.stem}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}.o"
    if not target.exists():
        for old in folder.glob(f"{source.stem}-*.o"):
            old.unlink()
        partial = target.with_suffix(".partial")
        run_compiler([*command, "-o", str(partial)])
        partial.rename(target)
    return target


def run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:  # warnings are errors
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def program(name: str, build: str, extra: tuple[str, ...] = ()) -> Path:
    """The program `name` in one of the builds; with `extra` definitions it has a folder of its own."""
    folder = BUILT / "-".join([build, *(flag.removeprefix("-D").lower() for flag in extra)])
    folder.mkdir(parents=True, exist_ok=True)
    objects = [(source, [*HARDWARE, *DEFINED[build], *extra]) for source in EMULATOR]
    objects.append((PROGRAMS[name], [*KERNELS[build], *extra]))
    jobs = int(os.environ.get("EMU_JOBS", os.cpu_count() or 1))
    with (folder / "lock").open("w") as lock, ThreadPoolExecutor(jobs) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiled = list(pool.map(lambda item: compile_object(*item, folder), objects))
        target = folder / name
        newest = max(file.stat().st_mtime for file in compiled)
        if not target.exists() or target.stat().st_mtime < newest:
            run_compiler([*COMPILER, *LINK[build], *map(str, compiled), "-o", str(target)])
    return target


if __name__ == "__main__":
    print(program(sys.argv[1], sys.argv[2]))
