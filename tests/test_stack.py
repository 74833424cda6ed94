"""Stacks and packs against the reference in float64: layers, directions, ids, ragged batches, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnkernels as rk
from rnnkernels import reference
from rnnkernels.testing import CELL_KINDS, as_float64, assert_within_budget

KINDS = sorted(CELL_KINDS)
T, B, I, H = 6, 4, 5, 7
LENGTHS = [6, 0, 3, 6]


class Problem:
    """Arguments of a stack, drawn from a seed."""

    def __init__(self, kind: str, layers: int, directions: int, dtype: str, ids: bool = False) -> None:
        self.kind, self.rng = kind, np.random.default_rng(0)
        rows = CELL_KINDS[kind][2] * H

        def normal(*shape: int) -> Any:
            return (0.4 * self.rng.standard_normal(shape)).astype(dtype)

        def states() -> Any:
            h = normal(layers * directions, B, H)
            return (h, normal(*h.shape)) if kind == "lstm" else h

        self.params = [
            [
                (normal(rows, directions * H if layer else I), normal(rows, H), normal(rows), None)
                for _ in range(directions)
            ]
            for layer in range(layers)
        ]
        self.x = self.rng.integers(I, size=(T, B)) if ids else normal(T, B, I)
        self.hx, self.dhx, self.dy = states(), states(), normal(T, B, directions * H)

    def forward(self, ops: Any = rk, **options: Any) -> Any:
        return ops.stack_forward(self.kind, self.x, self.params, self.hx, **options)

    def wide(self) -> Problem:
        """The same numbers in float64."""
        other = object.__new__(Problem)
        other.__dict__ = self.__dict__ | {k: as_float64(v) for k, v in self.__dict__.items() if k != "rng"}
        return other


def arrays(result: Any) -> list[np.ndarray]:
    """All arrays of a nested result, in order; a saved part is not one of them."""
    if isinstance(result, np.ndarray):
        return [result]
    return [a for part in result for a in arrays(part)] if isinstance(result, tuple | list) else []


def compare(got: Any, want: Any, kind: Any) -> None:
    for index, (mine, its) in enumerate(zip(arrays(got), arrays(want), strict=True)):
        assert_within_budget(mine, its, kind, name=f"array {index}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lengths": LENGTHS},
        {"dropout": 0.3, "rng": 7},
        {"lengths": LENGTHS, "dropout": 1.0, "rng": 2**64 - 1},
    ],
    ids=["plain", "ragged", "dropout", "ragged, all dropped"],
)
def test_stack(kind: str, layers: int, directions: int, dtype: str, options: dict[str, Any]) -> None:
    problem = Problem(kind, layers, directions, dtype, ids=layers == 2)
    got, want = problem.forward(**options), problem.wide().forward(reference, **options)
    compare(got, want, "forward")
    grads = rk.stack_backward(problem.dy, got.saved, problem.dhx)
    truth = reference.stack_backward(problem.wide().dy, want.saved, problem.wide().dhx)
    assert (grads.dx is None) == (truth.dx is None) == (layers == 2)
    if kind == "rnn_relu":  # at a corner float32 may stand on the other side: differentiate where it stood
        truth = reference.stack_backward(problem.dy, got.saved, problem.dhx)
    compare(grads, truth, "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_stacks_are_interchangeable(kind: str) -> None:
    problem = Problem(kind, 2, 2, "float64")
    options: dict[str, Any] = {"lengths": LENGTHS, "dropout": 0.5, "rng": 3}
    kernel, twin = problem.forward(**options).saved, problem.forward(reference, **options).saved
    assert (kernel.key, kernel.has_hx, kernel.kind) == (twin.key, twin.has_hx, twin.kind)
    cotangents = (problem.dy, problem.dhx)
    for needs in (None, {"dx"}, {"dhx"}, {"params"}, {"dx", "params"}):
        want = reference.stack_backward(cotangents[0], twin, cotangents[1], needs=needs)
        for backward, saved in ((rk.stack_backward, twin), (reference.stack_backward, kernel)):
            got = backward(cotangents[0], saved, cotangents[1], needs=needs)
            assert [part is None for part in got] == [part is None for part in want]
            compare(got, want, "gradient")


def test_absent_states_and_cotangents_are_zeros() -> None:
    problem = Problem("lstm", 2, 2, "float32")
    none = rk.stack_forward("lstm", problem.x, problem.params)
    zeros = tuple(np.zeros_like(state) for state in problem.hx)
    given = rk.stack_forward("lstm", problem.x, problem.params, zeros)
    assert not none.saved.has_hx
    for mine, its in zip(
        arrays([none, rk.stack_backward(None, none.saved)]),
        arrays([given, rk.stack_backward(np.zeros_like(problem.dy), given.saved, zeros)]),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_dropout_is_that_of_the_reference_to_the_bit(dtype: Any, p: float) -> None:
    """relu of an identity stack shows the mask itself."""
    n = 33
    eye, no_state = np.eye(n, dtype=dtype), np.zeros((n, n), dtype)
    params = [[(eye, no_state, None, None)]] * 3
    x = np.ones((5, 3, n), dtype)
    got, want = (
        ops.stack_forward("rnn_relu", x, params, dropout=p, rng=1234567890123) for ops in (rk, reference)
    )
    np.testing.assert_array_equal(got.y, want.y)
    inside = [layers[0].x for layers in got.saved.layers]
    for layer in (1, 2):
        np.testing.assert_array_equal(inside[layer], want.saved.layers[layer][0].x)
    assert abs((inside[1] == 0).mean() - p) < 0.1
    assert not np.array_equal(inside[1] == 0, (inside[2] == 0) & (inside[1] != 0))


def test_a_generator_gives_one_key_and_only_for_dropout() -> None:
    problem = Problem("gru", 2, 1, "float32")
    mine, its, untouched = (np.random.default_rng(5) for _ in range(3))
    got = problem.forward(dropout=0.5, rng=mine)
    assert got.saved.key == problem.forward(reference, dropout=0.5, rng=its).saved.key
    assert problem.forward(rng=untouched).saved.key is None
    assert untouched.integers(2**63) == np.random.default_rng(5).integers(2**63)
    assert mine.integers(2**63) == its.integers(2**63)
    again = problem.forward(dropout=0.5, rng=got.saved.key)
    np.testing.assert_array_equal(again.y, got.y)
    assert not np.array_equal(problem.forward(dropout=0.5).y, got.y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packs_give_the_bits_of_the_stack(kind: str, ids: bool, directions: int, dtype: str) -> None:
    problem = Problem(kind, 3, directions, dtype, ids)
    packed = rk.pack(kind, problem.params)
    for options in ({}, {"lengths": LENGTHS}):
        want = problem.forward(**options)
        unsaved = problem.forward(**options, save=False)
        got = packed.forward(problem.x, problem.hx, **options)
        for one, two, three in zip(arrays(want), arrays(unsaved), arrays(got), strict=True):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_array_equal(one, three)
    if directions == 1:
        want, state = problem.forward(), problem.hx
        for t in range(T):
            y_t, state = packed.step(problem.x[t], state)
            np.testing.assert_array_equal(y_t, want.y[t])
        for one, two in zip(arrays([state]), arrays([want.hx]), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_pack_survives_its_weights() -> None:
    problem = Problem("lstm", 2, 1, "float32")
    packed = rk.pack("lstm", problem.params)
    want = packed.forward(problem.x)[0]
    for array in arrays([problem.params]):
        array[...] = np.nan
    del problem.params
    np.testing.assert_array_equal(packed.forward(problem.x)[0], want)


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)])
def test_stacks_and_packs_of_size_zero(sizes: tuple[int, int, int, int]) -> None:
    t, b, i, h = sizes
    rng = np.random.default_rng(0)
    shapes = [((4 * h, n), (4 * h, h), (4 * h,), (4 * h,)) for n in (i, 2 * h)]
    params = [[tuple(rng.standard_normal(s, dtype=np.float32) for s in layer)] * 2 for layer in shapes]
    x = rng.standard_normal((t, b, i), dtype=np.float32)
    hx = tuple(rng.standard_normal((4, b, h), dtype=np.float32) for _ in range(2))
    got, want = (ops.stack_forward("lstm", x, params, hx) for ops in (rk, reference))
    packed = rk.pack("lstm", params).forward(x, hx)
    grads = rk.stack_backward(None, got.saved, hx)
    truth = reference.stack_backward(None, want.saved, hx)
    for mine, its in zip(
        arrays([got.y, got.hx, *packed, grads]), arrays([want.y, want.hx] * 2 + [truth]), strict=True
    ):
        assert mine.shape == its.shape
        np.testing.assert_allclose(mine, its, atol=1e-5)
