"""The kernels without Python, natively and for AArch64: tests/native built by CMake, there run under qemu.

The program compares every kernel with the scalar one and prints a digest of its bits.  NEON, AVX2 and AVX-512
evaluate the same operations in the same order with an exact fma, so their digests are the same.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

NATIVE = Path(__file__).parent / "native"
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CROSS_OPTIONS = [
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake", path=PATH) is None, reason="CMake is not installed"),
]


class Line(NamedTuple):
    """What the program prints of one kernel."""

    cases: int
    worst: float  # share of the budget
    digest: str


def run(build: Path, options: list[str], prefix: list[str]) -> dict[str, Line]:
    environment = os.environ | {"PATH": PATH}
    for command in (["cmake", "-S", NATIVE, "-B", build, *options], ["cmake", "--build", build]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([*prefix, build / "compare_kernels"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (line.split() for line in done.stdout.splitlines())
    return {name: Line(int(cases), float(worst), digest) for name, cases, worst, digest in rows}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Line]:
    return run(tmp_path_factory.mktemp("native"), [], [])


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Line]:
    for tool in (CROSS_COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: g++-aarch64-linux-gnu, qemu-user)")
    return run(tmp_path_factory.mktemp("neon"), CROSS_OPTIONS, [EMULATOR])


def assert_complete(lines: dict[str, Line], isa: str) -> None:
    of_isa = {name: line for name, line in lines.items() if name.endswith(f"_{isa}")}
    # dtypes x (forward and backward of 5 cells, 6 heads), and conversions of two dtypes of 16 bits
    assert len(of_isa) == 2 * (2 * 5 + 6) + 2
    assert all(line.cases >= 10 and line.worst <= 1.0 for line in of_isa.values())


def test_native(native: dict[str, Line]) -> None:
    if platform.machine() == "x86_64":
        assert_complete(native, "avx2")


def test_neon(neon: dict[str, Line]) -> None:
    assert_complete(neon, "neon")


def test_neon_computes_the_bits_of_the_other_vector_isas(
    native: dict[str, Line], neon: dict[str, Line]
) -> None:
    compared = 0
    for name, line in native.items():
        family, isa = name.rsplit("_", 1)
        # the C library's log, which ends a cross-entropy, is another one there
        if "cross_entropy" not in family and isa != "neon":
            assert line.digest == neon[f"{family}_neon"].digest, name
            compared += 1
    assert compared > 0
