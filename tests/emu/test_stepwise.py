"""The stepwise tier in float32 against the float64 reference, on the emulator in its orders and builds.

Sizes cross every edge of a tile: 16 units, 16 sequences, 32 of k.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from programs import PROGRAMS, Program
from test_conformance import assert_nvcc_compiles, needs_nvcc

from rnnkernels import reference
from rnnkernels.testing import share_of_budget

CELLS = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
SIZES = [(3, 1, 1, 1), (2, 16, 32, 16), (2, 17, 33, 15), (3, 5, 7, 37), (2, 33, 64, 48)]  # T, B, I, H
Arrays = dict[str, np.ndarray]
Results = tuple[np.ndarray, np.ndarray]  # y and c_n


def problem(cell: str, T: int, B: int, I: int, H: int) -> Arrays:
    rng = np.random.default_rng([CELLS.index(cell), T, B, I, H])
    G, bound = GATES[cell], H**-0.5
    shapes = {"w_ih": (G * H, I), "w_hh": (G * H, H), "b_ih": (G * H,), "b_hh": (G * H,)}
    arrays: Arrays = {"x": rng.standard_normal((T, B, I))}
    arrays |= {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    arrays |= {name: rng.standard_normal((B, H)) for name in ("h0", "c0")}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def expected(cell: str, arrays: Arrays) -> Results:
    """A cell without c leaves c0 as it is."""
    wide: dict[str, Any] = {name: array.astype(np.float64) for name, array in arrays.items()}
    if cell == "lstm":
        lstm = reference.lstm_forward(**wide)
        return lstm.y, lstm.c_n
    c0 = wide.pop("c0")
    if cell == "gru":
        return reference.gru_forward(**wide).y, c0
    return reference.rnn_forward(**wide, nonlinearity=cell.removeprefix("rnn_")).y, c0


def emulate(
    build: str, cell: str, arrays: Arrays, order: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    T, B, I = arrays["x"].shape
    H = arrays["h0"].shape[1]
    sizes = np.array([CELLS.index(cell), T, B, I, H], np.int32)
    sent = sizes.tobytes() + b"".join(array.tobytes() for array in arrays.values())
    command, environment = zoo.prepared(Program("stepwise", build), [order, str(seed)])
    done = subprocess.run(command, env=environment, input=sent, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    values = np.frombuffer(done.stdout, np.float32)
    return values[: T * B * H].reshape(T, B, H), values[T * B * H :].reshape(B, H)


on_emulator = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is written for Linux")


@on_emulator
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_against_the_reference(cell: str, size: tuple[int, int, int, int]) -> None:
    arrays = problem(cell, *size)
    y, c_n = emulate("plain", cell, arrays, "round_robin")
    for got, want in zip((y, c_n), expected(cell, arrays), strict=True):
        assert share_of_budget(got, want, dtype=np.float32, kind="forward") <= 1
    for order, seed in [("reverse", 0), ("random", 1), ("random", 2)]:
        again = emulate("plain", cell, arrays, order, seed)
        assert np.array_equal(again[0], y)
        assert np.array_equal(again[1], c_n)


@on_emulator
@pytest.mark.parametrize("build", ["address", "thread"])
@pytest.mark.parametrize("cell", CELLS)
def test_under_sanitizers(cell: str, build: str) -> None:
    arrays = problem(cell, 2, 17, 33, 15)
    y, c_n = emulate(build, cell, arrays, "random")
    for got, want in zip((y, c_n), expected(cell, arrays), strict=True):
        assert share_of_budget(got, want, dtype=np.float32, kind="forward") <= 1


@needs_nvcc
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "compute_90"])
def test_nvcc_compiles(target: str, tmp_path: Path) -> None:
    assert_nvcc_compiles(PROGRAMS["stepwise"], target, tmp_path, kernels=len(CELLS))
