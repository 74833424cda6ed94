"""What ptxas says of every kernel for every target: registers, static shared memory, spills; as Markdown.

`python benchmarks/gpu/ptxas.py > benchmarks/results/ptxas.md` compiles csrc/cuda/kernels.cu for each row of
numbers.inc, and dispatch.cu, as cmake/CudaKernels.cmake does.  Needs nvcc and cu++filt or c++filt; no GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
TARGETS = ("80", "90")
NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_\d+'\n.*\n"
    r"\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r".*Used (\d+) registers(.*)"
)


def numbers() -> list[tuple[str, str]]:
    rows = (CUDA / "numbers.inc").read_text()
    return re.findall(r"^RNNKERNELS_NUMBER\((\w+), (\w+)\)", rows, re.M)


def kernels(job: tuple[str, str, str]) -> dict[str, tuple[int, int, int]]:
    """Registers, bytes of shared memory, bytes spilled, by the mangled names of the kernels of a file."""
    name, number, target = job
    source = "kernels.cu" if number else "dispatch.cu"
    definitions = [f"-DRNNKERNELS_PASSES={name}", f"-DRNNKERNELS_TYPE={number}"] if number else []
    with tempfile.TemporaryDirectory() as folder:
        command = [NVCC, "-std=c++17", "-O3", "--fmad=false", "-cubin", f"-arch=sm_{target}", "-Xptxas", "-v"]
        command += [*definitions, "-I", str(ROOT / "csrc"), "-o", f"{folder}/x", str(CUDA / source)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {}
    for entry, frame, stores, loads, registers, rest in ENTRY.findall(done.stdout + done.stderr):
        shared = re.search(r"(\d+) bytes smem", rest)
        spilled = int(frame) + int(stores) + int(loads)
        found[entry] = (int(registers), int(shared[1]) if shared else 0, spilled)
    return found


def readable(mangled: list[str]) -> list[str]:
    text = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True)
    names = []
    for line in text.stdout.splitlines():
        name = (
            line.removeprefix("void ")
            .replace("rnnkernels::cuda::", "")
            .replace("rnnkernels::", "")
            .replace("portable::", "")
        )
        depth, end = 0, len(name)
        for i, letter in enumerate(name):  # the template's arguments stay, the function's go
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                end = i
                break
        names.append(re.sub(r"\((?:int|bool|Phase)\)", "", name[:end]))
    return names


def main() -> int:
    files = [*numbers(), ("dispatch", "")]
    jobs = [(*file, target) for file in files for target in TARGETS]
    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(jobs, pool.map(kernels, jobs), strict=True))
    version = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    counts = {t: sum(len(found) for job, found in said.items() if job[2] == t) for t in TARGETS}
    spilled = sum(row[2] > 0 for found in said.values() for row in found.values())
    print("# Kernels as ptxas sees them\n")
    print(f"nvcc {re.search(r'release ([^,]+)', version)[1]}, `--fmad=false`; made by")  # type: ignore[index]
    print("[ptxas.py](../gpu/ptxas.py). Shared memory is dynamic, but for what stands here.")
    print(f"{', '.join(f'{count} kernels for sm_{t}' for t, count in counts.items())}; {spilled} spill.\n")
    for name, number in files:
        print(f"## {name}\n")
        print("| kernel | " + " | ".join(f"registers, sm_{t}" for t in TARGETS) + " |")
        print("| --- |" + " --: |" * len(TARGETS))
        entries = list(said[name, number, TARGETS[0]])
        for entry, text in sorted(zip(entries, readable(entries), strict=True), key=lambda pair: pair[1]):
            cells = []
            for target in TARGETS:
                registers, shared, bytes_spilled = said[name, number, target][entry]
                more = f" + {shared} B shared" * (shared > 0) + f", {bytes_spilled} B SPILLED" * (
                    bytes_spilled > 0
                )
                cells.append(f"{registers}{more}")
            print(f"| `{text}` | " + " | ".join(cells) + " |")
        print()
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
