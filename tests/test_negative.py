"""The comparisons can fail: what is wrong in one way is told from what is right, by a wide margin.

Kernels compute from arguments into which a mistake was put, the ones that kernels make: gates in another
order, a term left out, a mask that is off by one, a gradient that does not reach a state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rnnkernels
from kernelcases import DTYPES, FLOATS, ISAS, KINDS, Case, HeadCase, run_head, truth
from rnnkernels import functional, reference
from rnnkernels.testing import CELL_KINDS, CellCase, CellProblem, as_float64, named_arrays, share_of_budget

CASE = Case(CellCase(6, 5, 7, 9, ragged=True))
MARGIN = 100  # budgets, at least, that a mistake must cost

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", FLOATS)  # of 16 bits: test_half.py
pytestmark = pytest.mark.parametrize("isa", ISAS)


def shares(got: Any, want: Any, dtype: str, kind: Any) -> dict[str, float]:
    results, wanted = named_arrays(got), named_arrays(want)
    return {name: share_of_budget(results[name], wanted[name], dtype=dtype, kind=kind) for name in wanted}


def forward_shares(
    kind: str, dtype: str, isa: str, change: Callable[[dict[str, Any]], None]
) -> dict[str, float]:
    """How far the kernel is from the truth once `change` has been made to its arguments."""
    want = truth(kind, CASE, dtype)
    wrong = CASE.problem(kind, dtype)
    change(wrong.arguments)
    with rnnkernels.config(isa=isa):
        return shares(wrong.forward(functional), want.forward, dtype, "forward")


def backward_shares(
    kind: str, dtype: str, isa: str, change: Callable[[dict[str, Any]], None]
) -> dict[str, float]:
    """The same for gradients; `change` is made to the cotangents."""
    want = truth(kind, CASE, dtype)
    wrong = CASE.problem(kind, dtype)
    with rnnkernels.config(isa=isa):
        saved = wrong.forward(functional).saved
        change(wrong.cotangents)
        return shares(wrong.backward(functional, saved), want.gradients(saved), dtype, "gradient")


def test_nothing_wrong(isa: str) -> None:
    """The same comparisons pass where nothing was changed."""
    for kind in KINDS:
        for dtype in DTYPES:
            assert max(forward_shares(kind, dtype, isa, lambda arguments: None).values()) <= 1
            assert max(backward_shares(kind, dtype, isa, lambda cotangents: None).values()) <= 1


# -- gates -------------------------------------------------------------------------------------------------


def swap_gates(first: int, second: int, H: int = CASE.cell.H) -> Callable[[dict[str, Any]], None]:
    def change(arguments: dict[str, Any]) -> None:
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            swapped = arguments[name].copy()
            swapped[first * H : (first + 1) * H] = arguments[name][second * H : (second + 1) * H]
            swapped[second * H : (second + 1) * H] = arguments[name][first * H : (first + 1) * H]
            arguments[name] = swapped

    return change


@each_dtype
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (kind, first, second)
        for kind in KINDS
        for second in range(CELL_KINDS[kind][2])
        for first in range(second)
    ],
)
def test_permuted_gates(isa: str, dtype: str, kind: str, first: int, second: int) -> None:
    found = forward_shares(kind, dtype, isa, swap_gates(first, second))
    assert all(share > MARGIN for share in found.values()), found


@each_dtype
@pytest.mark.parametrize("kind", ["gru", "gru_reset_before"])
def test_the_other_form_of_the_cell(isa: str, dtype: str, kind: str) -> None:
    def change(arguments: dict[str, Any]) -> None:
        arguments["reset_after"] = not arguments.get("reset_after", True)

    want, wrong = truth(kind, CASE, dtype), CASE.problem(kind, dtype)
    change(wrong.arguments)
    with rnnkernels.config(isa=isa):
        got = wrong.forward(functional)
    assert share_of_budget(got.y, want.forward.y, dtype=dtype, kind="forward") > MARGIN


@each_dtype
@pytest.mark.parametrize(("kind", "other"), [("rnn_tanh", "relu"), ("rnn_relu", "tanh")])
def test_the_other_nonlinearity(isa: str, dtype: str, kind: str, other: str) -> None:
    found = forward_shares(kind, dtype, isa, lambda arguments: arguments.update(nonlinearity=other))
    assert all(share > MARGIN for share in found.values()), found


# -- terms -------------------------------------------------------------------------------------------------


def zero(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda arguments: arguments.update({name: np.zeros_like(arguments[name])})


@each_kind
@each_dtype
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "b_ih", "b_hh", "h0"])
def test_a_dropped_term(isa: str, dtype: str, kind: str, name: str) -> None:
    found = forward_shares(kind, dtype, isa, zero(name))
    assert all(share > MARGIN for share in found.values()), found


@each_dtype
def test_a_dropped_cell_state(isa: str, dtype: str) -> None:
    found = forward_shares("lstm", dtype, isa, zero("c0"))
    assert all(share > MARGIN for name, share in found.items()), found


@each_kind
@each_dtype
def test_one_weight_of_the_last_column(isa: str, dtype: str, kind: str) -> None:
    """What a loop that ends one step too early forgets."""

    def change(arguments: dict[str, Any]) -> None:
        arguments["w_hh"][:, -1] = 0

    found = forward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
def test_a_transposed_matrix(isa: str, dtype: str, kind: str) -> None:
    def change(arguments: dict[str, Any]) -> None:
        H = CASE.cell.H
        blocks = [arguments["w_hh"][i : i + H].T for i in range(0, len(arguments["w_hh"]), H)]
        arguments["w_hh"] = np.ascontiguousarray(np.concatenate(blocks))

    found = forward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


# -- masks and direction -----------------------------------------------------------------------------------


@each_kind
@each_dtype
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_wrong_mask(isa: str, dtype: str, kind: str, off_by: int) -> None:
    """A padding that begins one step too early or too late."""

    def change(arguments: dict[str, Any]) -> None:
        arguments["x"] = np.nan_to_num(arguments["x"], nan=0.5)
        arguments["lengths"] = np.clip(arguments["lengths"] + off_by, 0, CASE.cell.T)

    found = forward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
def test_the_mask_of_another_sequence(isa: str, dtype: str, kind: str) -> None:
    def change(arguments: dict[str, Any]) -> None:
        arguments["x"] = np.nan_to_num(arguments["x"], nan=0.5)
        arguments["lengths"] = arguments["lengths"][::-1].copy()

    found = forward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
def test_the_other_direction(isa: str, dtype: str, kind: str) -> None:
    found = forward_shares(kind, dtype, isa, lambda arguments: arguments.update(reverse=True))
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
def test_nan_where_a_number_belongs(isa: str, dtype: str, kind: str) -> None:
    def change(arguments: dict[str, Any]) -> None:
        arguments["x"][0, -1, 0] = np.nan

    found = forward_shares(kind, dtype, isa, change)
    assert found["y"] == np.inf


# -- gradients ---------------------------------------------------------------------------------------------


@each_kind
@each_dtype
@pytest.mark.parametrize("name", ["dy", "dh_n", "dc_n"])
def test_a_gradient_that_does_not_arrive(isa: str, dtype: str, kind: str, name: str) -> None:
    if name == "dc_n" and kind != "lstm":
        return

    def change(cotangents: dict[str, Any]) -> None:
        cotangents[name] = None

    found = backward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
def test_one_step_of_dy_that_does_not_arrive(isa: str, dtype: str, kind: str) -> None:
    def change(cotangents: dict[str, Any]) -> None:
        cotangents["dy"][0] = 0

    found = backward_shares(kind, dtype, isa, change)
    assert all(share > MARGIN for share in found.values()), found


@each_kind
@each_dtype
@pytest.mark.parametrize("name", ["gates", "c", "h"])
def test_a_saved_value_of_another_step(isa: str, dtype: str, kind: str, name: str) -> None:
    if (name == "c" and kind != "lstm") or (name == "gates" and kind.startswith("rnn")):
        return
    want = truth(kind, CASE, dtype)
    problem = CASE.problem(kind, dtype)
    with rnnkernels.config(isa=isa):
        saved = problem.forward(functional).saved
        right = want.gradients(saved)
        wrong = replace(saved, **{name: np.roll(getattr(saved, name), 1, axis=0)})
        found = shares(problem.backward(functional, wrong), right, dtype, "gradient")
    assert found["dw_hh"] > MARGIN, found


@each_kind
@each_dtype
def test_gradients_that_are_not_accumulated(isa: str, dtype: str, kind: str) -> None:
    want, problem = truth(kind, CASE, dtype), CASE.problem(kind, dtype)
    name = CELL_KINDS[kind][0]
    with rnnkernels.config(isa=isa):
        saved = problem.forward(functional).saved
        gradients = named_arrays(want.gradients(saved))
        out = {key: np.ones(array.shape, dtype) for key, array in gradients.items()}
        got = getattr(functional, f"{name}_backward")(saved=saved, **problem.cotangents, out=out)
    for key, gradient in gradients.items():
        assert share_of_budget(getattr(got, key), gradient + 1, dtype=dtype, kind="gradient") > MARGIN, key


@each_kind
def test_half_the_digits(isa: str, kind: str) -> None:
    """float32 where float64 was asked for."""
    problem = CASE.problem(kind, "float64")
    narrow = CellProblem(
        kind, {name: single(value) for name, value in problem.arguments.items()}, problem.cotangents
    )
    with rnnkernels.config(isa=isa):
        got = narrow.forward(functional)
    want = truth(kind, CASE, "float64").forward
    assert share_of_budget(got.y.astype(np.float64), want.y, dtype="float64", kind="forward") > MARGIN


def single(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


# -- heads -------------------------------------------------------------------------------------------------

MISTAKES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no bias": lambda a: {"b": np.zeros_like(a["b"])},
    "shifted weights": lambda a: {"w": np.roll(a["w"], 1, axis=0)},
    "no last column": lambda a: {"w": np.where(np.arange(9) == 8, np.zeros_like(a["w"]), a["w"])},
    "other targets": lambda a: {"targets": (a["targets"] + 1) % 11},
    "other reduction": lambda a: {"reduction": "sum"},
    "no last logit": lambda a: {
        "logits": np.where(np.arange(11) == 10, np.zeros_like(a["logits"]), a["logits"])
    },
}
ALL_OF_FUSED = {"loss", "dh", "dw", "db"}
AFFECTED = {
    ("linear", "no bias"): {"y"},
    ("linear", "shifted weights"): {"y", "dx"},
    ("linear", "no last column"): {"y", "dx"},
    ("cross_entropy", "other targets"): {"loss", "dlogits"},
    ("cross_entropy", "other reduction"): {"loss", "dlogits"},
    ("cross_entropy", "no last logit"): {"loss", "dlogits"},
    ("linear_cross_entropy", "no bias"): ALL_OF_FUSED,
    ("linear_cross_entropy", "shifted weights"): ALL_OF_FUSED,
    ("linear_cross_entropy", "no last column"): ALL_OF_FUSED,
    ("linear_cross_entropy", "other targets"): ALL_OF_FUSED,
    ("linear_cross_entropy", "other reduction"): ALL_OF_FUSED,
}


@each_dtype
@pytest.mark.parametrize(("head", "mistake"), AFFECTED)
def test_heads(isa: str, dtype: str, head: str, mistake: str) -> None:
    arguments = HeadCase((6,), 9, 11).arguments(dtype)
    want = run_head(head, reference, as_float64(arguments))
    with rnnkernels.config(isa=isa):
        got = run_head(head, functional, arguments | MISTAKES[mistake](arguments))
    found: dict[str, float] = {}
    for i, kind in enumerate(("forward", "gradient")):
        found |= shares(got[i], want[i], dtype, kind)
    assert all(found[name] > MARGIN for name in AFFECTED[head, mistake]), found
