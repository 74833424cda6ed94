"""Stacks of the device against the float64 reference, on the emulator: layers, directions, dropout, ids."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  which makes "bfloat16" a dtype of NumPy
import numpy as np
import pytest
import zoo
from programs import PROGRAMS, Program
from stepwise import KINDS, answers, sent_array
from test_conformance import assert_nvcc_compiles, needs_nvcc
from test_stepwise import on_emulator

from rnnkernels import reference
from rnnkernels.testing import CELL_KINDS, Kind, as_float64, dtype_of, share_of_budget
from rnnkernels.types import Array
from test_stack_kernels import KEY, Stack, run

NUMBERS = ("float32", "bfloat16")
STACKS = [
    Stack(1, 1, 1, 1, layers=3),
    Stack(5, 3, 7, 5, layers=3, directions=1, ragged=True, dropout=0.3),
    Stack(4, 7, 3, 9, layers=2, ragged=True, dropout=0.3, state=False),
    Stack(3, 5, 16, 17, layers=4, ids=True, ragged=True, dropout=0.9),
]


def states(kind: str, hx: Any) -> tuple[Array | None, Array | None]:
    return hx if kind == "lstm" and hx is not None else (hx, None)


def inputs(kind: str, dtype: str, stack: Stack, chunk_bytes: int) -> bytes:
    a = stack.arguments(kind, dtype)
    header = struct.pack(
        "=9qQd", KINDS.index(kind), NUMBERS.index(dtype), stack.T, stack.B, stack.I, stack.H, stack.layers,
        stack.directions, chunk_bytes, KEY, stack.dropout,
    )  # fmt: skip
    x, ids = (None, a["x"].astype(np.int64)) if stack.ids else (a["x"], None)
    lengths = None if a["lengths"] is None else np.asarray(a["lengths"], np.int64)
    arrays = [x, ids, lengths, a["dy"], *states(kind, a["hx"]), *states(kind, a["dhx"])]
    weights = [array for layer in a["params"] for direction in layer for array in direction]
    return header + b"".join(map(sent_array, [*arrays, *weights]))


def outputs(kind: str, dtype: str, stack: Stack, stream: Any) -> dict[str, Array]:
    T, B, I, H, D = stack.T, stack.B, stack.I, stack.H, stack.directions
    rows, state = CELL_KINDS[kind][2] * H, (stack.layers * D, B, H)
    shapes: dict[str, tuple[int, ...]] = {"y": (T, B, D * H), "h_n": state, "c_n": state}
    shapes |= {"dx": (T, B, I), "dh0": state, "dc0": state}
    for layer in range(stack.layers):
        for d in range(D):
            own = {
                "dw_ih": (rows, D * H if layer else I),
                "dw_hh": (rows, H),
                "db_ih": (rows,),
                "db_hh": (rows,),
            }
            shapes |= {f"{name} {layer} {d}": shape for name, shape in own.items()}
    results = {}
    for name, shape in shapes.items():
        size = int(np.frombuffer(stream.read(8), np.int64)[0])
        if size >= 0:
            results[name] = np.frombuffer(stream.read(size), dtype_of(name.split()[0], dtype)).reshape(shape)
    return results


def truth(kind: str, dtype: str, stack: Stack) -> dict[str, Array]:
    forward, backward = run(reference, kind, as_float64(stack.arguments(kind, dtype)))
    want = {"y": forward.y, "dx": backward.dx}
    want |= dict(zip(("h_n", "c_n"), states(kind, forward.hx), strict=True))
    want |= dict(zip(("dh0", "dc0"), states(kind, backward.dhx), strict=True))
    for layer, directions in enumerate(backward.params):
        for d, gradients in enumerate(directions):
            for name, gradient in zip(("dw_ih", "dw_hh", "db_ih", "db_hh"), gradients, strict=True):
                want[f"{name} {layer} {d}"] = gradient
    return want


def emulate(
    build: str, kind: str, dtype: str, stacks: list[Stack], chunk_bytes: int = 0
) -> list[dict[str, Array]]:
    command, environment = zoo.prepared(Program("stack", build), ["random", "1"])
    sent = b"".join(inputs(kind, dtype, stack, chunk_bytes) for stack in stacks)
    stream = answers(command, sent, environment)
    return [outputs(kind, dtype, stack, stream) for stack in stacks]


def assert_within_budget(kind: str, dtype: str, stack: Stack, got: dict[str, Array]) -> None:
    """Gradients of relu have no bound at its corner, those of 16 bits none that adds up over layers."""
    want = truth(kind, dtype, stack)
    names = [
        name for name in got if name in ("y", "h_n", "c_n") or (kind != "rnn_relu" and dtype == "float32")
    ]
    assert len(names) > 1
    for name in names:
        of: Kind = "gradient" if name.startswith("d") else "forward"
        limit = stack.layers if dtype == "bfloat16" else 1
        assert share_of_budget(got[name], want[name], dtype=dtype, kind=of) <= limit, f"{name} at {stack}"


@on_emulator
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_bytes", [0, 2000])
def test_against_the_reference(kind: str, dtype: str, chunk_bytes: int) -> None:
    for stack, got in zip(STACKS, emulate("plain", kind, dtype, STACKS, chunk_bytes), strict=True):
        assert_within_budget(kind, dtype, stack, got)


@on_emulator
@pytest.mark.parametrize("build", ["address", "thread"])
def test_under_sanitizers(build: str) -> None:
    for kind, dtype in (("lstm", "float32"), ("gru", "bfloat16")):
        for stack, got in zip(STACKS[1:3], emulate(build, kind, dtype, STACKS[1:3]), strict=True):
            assert_within_budget(kind, dtype, stack, got)


@needs_nvcc
@pytest.mark.slow
def test_nvcc_compiles(tmp_path: Path) -> None:
    assert_nvcc_compiles(PROGRAMS["stack"], "sm_90", tmp_path, kernels=40)
