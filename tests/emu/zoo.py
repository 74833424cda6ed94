"""The zoo's table: which build of the emulator finds which planted bug, in which order.

`python tests/emu/zoo.py` builds, runs everything, and prints it; tests/emu/test_zoo.py asserts it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import NamedTuple

from programs import ALL, BUILDS, Program, build

ORDERS = {"R": "round_robin", "V": "reverse", "N": "random"}
FOUND = 3  # the exit status of a finding of the emulator's, or of a wrong result
REPORTS = {"address": 97, "thread": 98}  # of a sanitizer's
ENVIRONMENT = {
    "ASAN_OPTIONS": f"exitcode={REPORTS['address']}:detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": f"exitcode={REPORTS['address']}:print_stacktrace=0",
    "TSAN_OPTIONS": f"exitcode={REPORTS['thread']}:halt_on_error=1:atexit_sleep_ms=0",
}


class Specimen(NamedTuple):
    """A planted bug, and the letters of the orders that must find it in each build."""

    name: str
    caught: dict[str, str]


def prepared(program: Program, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command that runs a program that has been built, and its environment."""
    command = [str(program.path()), *arguments]
    if program.build == "thread" and shutil.which("setarch"):
        # libtsan wants its addresses, which randomisation may take
        command = ["setarch", platform.machine(), "-R", *command]
    return command, os.environ | ENVIRONMENT


def run(program: Program, arguments: list[str], **environment: str) -> tuple[int, str]:
    """The exit status of a program, and all that it printed."""
    command, variables = prepared(program, arguments)
    done = subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def specimens() -> list[Specimen]:
    _, listing = run(Program("zoo", "plain"), [])
    rows = (line.split() for line in listing.splitlines())
    return [
        Specimen(name, dict(zip(BUILDS, (letters.strip("-") for letters in caught), strict=True)))
        for name, *caught in rows
    ]


def finding(build_name: str, specimen: str, order: str) -> str | None:
    """What a build says against the bug, in one line; None when it lets it pass."""
    status, output = run(Program("zoo", build_name), [specimen, "bug", order])
    if status == 0:
        return None
    if status not in (FOUND, REPORTS.get(build_name)):
        raise RuntimeError(f"{specimen}, {build_name}, {order}: exit status {status}\n{output}")
    telling = (f"{specimen}: ", "ERROR: ", "WARNING: ", "runtime error: ")
    return next((line for line in output.splitlines() if any(mark in line for mark in telling)), output)


def main() -> int:
    build(ALL)
    missed = 0
    print(f"{'':30}" + "".join(f"{name:10}" for name in BUILDS))
    for specimen in specimens():
        cells = []
        for name in BUILDS:
            found = {letter: finding(name, specimen.name, ORDERS[letter]) for letter in specimen.caught[name]}
            cells.append("".join(letter if text else "!" for letter, text in found.items()) or "-")
            missed += cells[-1].count("!")
        print(f"{specimen.name:30}" + "".join(f"{cell:10}" for cell in cells), flush=True)
    print("R round-robin, V reverse, N random with 20 seeds; ! missed; - not looked for")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
