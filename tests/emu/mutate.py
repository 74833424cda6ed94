"""Whether tests of CUDA kernels see every barrier, wait and bound: deletes each, and says who notices.

`python tests/emu/mutate.py [PATTERN]` prints a line for each mutation (of lines that match it) and, last, the
survivors.  A mutant is noticed by what the program says, by a wrong result, or by a sanitizer; one that the
program of its file does not notice, by the calls of test_device_api.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import heads
import stepwise
import zoo
from programs import BUILDS, BUILT, COMMON, COMPILER, DEFINED, EMULATOR, HARDWARE, KERNELS, LINK, ROOT, Object
from stepwise import CASES, FEW, INFINITE, jobs

# Each file of kernels, and the program that runs them; without one, calls from Python do.
FILES = {
    "product.cuh": "stepwise",
    "arrays.cuh": "stepwise",
    "stepwise.cuh": "stepwise",
    "heads.cuh": "heads",
    "dropout.cuh": "",
    "plumbing.cuh": "",
}
# What is deleted, and what then stands there.
CALLS = {
    r"__syncthreads\(\);": ";",
    r"copy_async_wait<[^>]+>\(\);": ";",
    r"copy_async_commit\(\);": ";",
    r"\b(?:a\.)?(?:sequences\.)?has(?:_before)?\([^()]*\)(?! const)": "true",
    r"\btargets\.ignores\([^()]*\)": "false",
    r"(?<!!)\btargets\.known\([^()]*\)": "true",
    r"!targets\.known\([^()]*\)": "false",
}
BOUND = r"(?<![\w.])[\w.]+ (<|>=) [\w.]+(?![\w(<:])"


class Mutation(NamedTuple):
    """One place of a file, and what stands there instead."""

    file: str
    line: int
    begin: int
    end: int
    instead: str

    def text(self) -> str:
        line = (ROOT / "csrc" / "cuda" / self.file).read_text().splitlines()[self.line]
        before, what, after = line[: self.begin].lstrip(), line[self.begin : self.end], line[self.end :]
        return f"{self.file}:{self.line + 1}: {before}[[{what}]]{after}"

    def apply(self, root: Path) -> None:
        path = root / "csrc" / "cuda" / self.file
        lines = path.read_text().splitlines()
        line = lines[self.line]
        lines[self.line] = line[: self.begin] + self.instead + line[self.end :]
        path.write_text("\n".join(lines) + "\n")


def mutations() -> list[Mutation]:
    found = []
    for name in FILES:
        for number, line in enumerate((ROOT / "csrc" / "cuda" / name).read_text().splitlines()):
            code = line.partition("//")[0]
            if re.search(r"\bfor \(|template|\bstatic\b|constexpr|__forceinline__ bool", code):
                continue
            for pattern, instead in CALLS.items():
                found += [
                    Mutation(name, number, *match.span(), instead) for match in re.finditer(pattern, code)
                ]
            for match in re.finditer(BOUND, code):
                leaves = match[1] == ">=" and "return;" in code
                found.append(Mutation(name, number, *match.span(), "false" if leaves else "true"))
    return found


def build(root: Path, program: str, kind: str) -> Path:
    """The program of the sources under root, in float32 alone."""
    flags = [*COMMON, *KERNELS[kind], "-w", "-DONLY_NUMBER=NumberF32", "-x", "c++"]
    objects = [str(Object(source, (*HARDWARE, *DEFINED[kind])).compile()) for source in EMULATOR]
    built = root / f"{program}-{kind}"
    source = str(root / "tests" / "cuda" / f"{program}.cu")
    command = [*COMPILER, *flags, source, "-x", "none", *objects, *LINK[kind], "-o", str(built)]
    subprocess.run(command, check=True, capture_output=True)
    return built


def problems(program: str, kind: str) -> tuple[Any, list[Any]]:
    """The module of a program, and the problems for a build."""
    if program == "heads":
        cases = heads.CASES if kind == "plain" else heads.FEW
        return heads, heads.jobs(numbers=["f32"], cases=cases)
    return stepwise, [*jobs(numbers=["f32"], cases=CASES if kind == "plain" else FEW), INFINITE]


def noticed(root: Path, program: str, kind: str) -> str:
    """Who notices, or nothing."""
    module, batch = problems(program, kind)
    command = [str(build(root, program, kind)), "random", "1"]
    if kind == "thread" and shutil.which("setarch"):
        command = ["setarch", os.uname().machine, "-R", *command]
    try:
        results = module.run(command, batch, zoo.ENVIRONMENT)
    except RuntimeError as error:
        if "failed to mprotect" in str(error):  # the machine's memory, not the mutant
            return ""
        said = [
            line for line in str(error).splitlines() if re.search(r"ERROR|WARNING|runtime error|: ", line)
        ]
        return f"{kind}: {said[0][:100] if said else error}"
    except subprocess.TimeoutExpired:
        return f"{kind}: it hangs"
    for job, got in zip(batch, results, strict=True):
        if wrong := [name for name, share in module.shares(job, got) if not share <= 1]:
            return f"{kind}: {wrong[0]} of {job} is wrong"
    return ""


def noticed_by_calls(root: Path, kind: str) -> str:
    """The first test of calls from Python that fails on the sources under root, or nothing."""
    code = f"import programs; programs.build((programs.Module({kind!r}), programs.Blas()))"
    environment = os.environ | {"PYTHONPATH": f"{root / 'tests'}:{root / 'tests' / 'emu'}", "EMU_JOBS": "1"}
    environment["CXX"] = " ".join([*COMPILER, "-w"])  # mutants may leave names unused
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    if kind == "address":  # as tests/sanitize/run
        libraries = [
            subprocess.run([*COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout
            for name in ("libasan.so", "libstdc++.so")
        ]
        environment |= {"LD_PRELOAD": " ".join(map(str.strip, libraries)), "RNNKERNELS_SANITIZED": kind}
        environment |= zoo.ENVIRONMENT | {"PYTHONMALLOC": "malloc"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "--noconftest",
        "-p",
        "no:cacheprovider",
    ]
    tests = [str(root / "tests" / "emu" / f"test_{name}.py") for name in ("device_api", "cublaslt")]
    done = subprocess.run([*command, *tests], env=environment, capture_output=True, text=True, cwd=root)
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return f"calls, {kind}: {failed[0][:100] if failed else 'they end the process'}"


def fate(mutation: Mutation) -> str:
    program = FILES[mutation.file]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("csrc", "tests"):
            shutil.copytree(ROOT / part, root / part)
        shutil.copy(ROOT / "pyproject.toml", root)
        mutation.apply(root)
        try:
            by = next((by for kind in BUILDS if program and (by := noticed(root, program, kind))), "")
            return by or next((by for kind in BUILDS[:2] if (by := noticed_by_calls(root, kind))), "")
        except subprocess.CalledProcessError:
            return "it does not compile"


def main(pattern: str = "") -> int:
    BUILT.mkdir(parents=True, exist_ok=True)
    for kind in BUILDS:
        build_once = [Object(source, (*HARDWARE, *DEFINED[kind])) for source in EMULATOR]
        for item in build_once:
            item.compile()
    chosen = [mutation for mutation in mutations() if re.search(pattern, mutation.text())]
    survivors = []
    with ThreadPoolExecutor(int(os.environ.get("EMU_JOBS", os.cpu_count() or 1))) as pool:
        for mutation, by in zip(chosen, pool.map(fate, chosen), strict=True):
            print(f"{mutation.text()}\n    {by or 'SURVIVES'}", flush=True)
            survivors += [] if by else [mutation]
    print(f"{len(chosen)} mutations, {len(survivors)} survive")
    for mutation in survivors:
        print(mutation.text())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
