"""Every wrapper of csrc/cuda/device.cuh against its definition, on the emulator, and compiled by nvcc.

tests/cuda/conformance.cu is one source for both.  Where there is a GPU, what nvcc has built runs, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from programs import PORTABLE, PROGRAMS, ROOT, Program

SOURCE = PROGRAMS["conformance"]
TESTS = re.findall(r'^    \{"(\w+)", [\w<>:]+, (?:true|false)\},$', SOURCE.read_text(), re.M)
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
TARGETS = {"sm_80": "compute_80", "sm_90": "compute_90", "compute_90": "compute_90"}

on_emulator = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is written for Linux")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def assert_all_pass(status: int, output: str) -> None:
    assert status == 0, output
    assert output.splitlines() == [f"ok {name}" for name in TESTS]


def test_every_wrapper_has_a_test() -> None:
    device = (ROOT / "csrc" / "cuda" / "device.cuh").read_text()
    public = device[: device.index("namespace detail")] + device[device.index("using same") :]
    wrappers = set(re.findall(r"__device__ __forceinline__ [\w&*]+\*? (\w+)\(", public))
    assert len(wrappers) > 35
    used = set(re.findall(r"\w+", SOURCE.read_text()))
    assert wrappers - used == {"require_cooperative", "trap"}  # the latter ends a context: it is in the zoo


@on_emulator
def test_plain() -> None:
    assert len(TESTS) >= 35
    assert_all_pass(*zoo.run(Program("conformance", "plain"), [], EMU_SEEDS="20"))


@on_emulator
@pytest.mark.parametrize("build_name", ["address", "thread"])
def test_under_sanitizers(build_name: str) -> None:
    assert_all_pass(*zoo.run(Program("conformance", build_name), [], EMU_SEEDS="2"))


@on_emulator
@pytest.mark.slow
@pytest.mark.parametrize("build_name", ["address", "thread"])
def test_under_sanitizers_with_many_seeds(build_name: str) -> None:
    assert_all_pass(*zoo.run(Program("conformance", build_name), [], EMU_SEEDS="20"))


@on_emulator
def test_with_portable_fibers() -> None:
    """The fibers of other processors than x86-64, on this one."""
    assert_all_pass(*zoo.run(PORTABLE, []))


def compile_with_nvcc(source: Path, arguments: list[str]) -> str:
    options = ["-std=c++17", "-O2", "--fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command = [str(NVCC), *options, *arguments, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_nvcc_compiles(source: Path, target: str, folder: Path, kernels: int) -> None:
    """Without a warning, and for a device without spills."""
    kind = "-cubin" if target.startswith("sm_") else "-ptx"
    code = f"arch={TARGETS[target]},code={target}"
    said = compile_with_nvcc(source, ["-gencode", code, kind, "-o", str(folder / target)])
    if kind == "-cubin":
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
        assert len(spills) >= kernels
        assert set(spills) == {("0", "0")}


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
def test_nvcc_compiles(target: str, tmp_path: Path) -> None:
    assert_nvcc_compiles(SOURCE, target, tmp_path, kernels=31)


@needs_nvcc
@pytest.mark.skipif(not os.path.exists("/proc/driver/nvidia"), reason="no NVIDIA driver: compiled only")
def test_on_the_device(tmp_path: Path) -> None:
    built = tmp_path / "conformance"
    targets = [f"-gencode=arch={architecture},code={code}" for code, architecture in TARGETS.items()]
    compile_with_nvcc(SOURCE, [*targets, "-o", str(built)])
    done = subprocess.run([built], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(?:ok|NOT RUN) (\w+)", done.stdout, re.M) == TESTS
