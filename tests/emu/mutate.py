"""Whether tests of the stepwise tier see every barrier, wait and bound: deletes each, and says who notices.

`python tests/emu/mutate.py [WORD]` prints a line for each mutation (of lines that hold WORD) and, last, the
survivors.  A mutant is noticed by what the program says, by a wrong result, or by a sanitizer.
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
from typing import NamedTuple

import stepwise
import zoo
from programs import BUILDS, BUILT, COMMON, COMPILER, DEFINED, EMULATOR, HARDWARE, KERNELS, LINK, ROOT, Object
from stepwise import CASES, FEW, INFINITE, jobs

FILES = ("product.cuh", "arrays.cuh", "stepwise.cuh")
# What is deleted, and what then stands there.
CALLS = {
    r"__syncthreads\(\);": ";",
    r"copy_async_wait<[^>]+>\(\);": ";",
    r"copy_async_commit\(\);": ";",
    r"\b(?:a\.)?(?:sequences\.)?has(?:_before)?\([^()]*\)(?! const)": "true",
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


def build(root: Path, kind: str) -> Path:
    """The program of the sources under root, in float32 alone."""
    flags = [*COMMON, *KERNELS[kind], "-w", "-DONLY_NUMBER=NumberF32", "-x", "c++"]
    objects = [str(Object(source, (*HARDWARE, *DEFINED[kind])).compile()) for source in EMULATOR]
    built = root / kind
    command = [
        *COMPILER,
        *flags,
        str(root / "tests/cuda/stepwise.cu"),
        "-x",
        "none",
        *objects,
        *LINK[kind],
        "-o",
        str(built),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return built


def noticed(root: Path, kind: str) -> str:
    """Who notices, or nothing."""
    batch = [*jobs(numbers=["f32"], cases=CASES if kind == "plain" else FEW), INFINITE]
    command = [str(build(root, kind)), "random", "1"]
    if kind == "thread" and shutil.which("setarch"):
        command = ["setarch", os.uname().machine, "-R", *command]
    try:
        results = stepwise.run(command, batch, zoo.ENVIRONMENT)
    except RuntimeError as error:
        said = [
            line for line in str(error).splitlines() if re.search(r"ERROR|WARNING|runtime error|: ", line)
        ]
        return f"{kind}: {said[0][:100] if said else error}"
    except subprocess.TimeoutExpired:
        return f"{kind}: it hangs"
    for job, got in zip(batch, results, strict=True):
        if wrong := [name for name, share in stepwise.shares(job, got) if not share <= 1]:
            return f"{kind}: {wrong[0]} of {job} is wrong"
    return ""


def fate(mutation: Mutation) -> str:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("csrc", "tests/cuda"):
            shutil.copytree(ROOT / part, root / part)
        mutation.apply(root)
        try:
            return next((by for kind in BUILDS if (by := noticed(root, kind))), "")
        except subprocess.CalledProcessError:
            return "it does not compile"


def main(word: str = "") -> int:
    BUILT.mkdir(parents=True, exist_ok=True)
    for kind in BUILDS:
        build_once = [Object(source, (*HARDWARE, *DEFINED[kind])) for source in EMULATOR]
        for item in build_once:
            item.compile()
    chosen = [mutation for mutation in mutations() if word in mutation.text()]
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
