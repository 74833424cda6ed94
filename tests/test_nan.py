"""NaN and infinities: they pass through, and stay in their own sequence; padding may hold anything.

What the others compute is compared bit for bit with a run in which all numbers are finite, and where
non-finite numbers stand with the reference.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkernels
from kernelcases import DTYPES, ISAS, KINDS, Case, HeadCase, run_head
from rnnkernels import functional, reference
from rnnkernels.testing import (
    CellCase,
    CellProblem,
    as_float64,
    assert_within_budget,
    budget,
    named_arrays,
    relative_error,
)
from rnnkernels.types import Array

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_isa = pytest.mark.parametrize("isa", ISAS)

T, B, I, H = 7, 13, 9, 17
SICK = 5  # the sequence that holds what is not finite
CLEAN = Case(CellCase(T, B, I, H, bias="sequence"))
BACKWARDS = Case(CellCase(T, B, I, H, bias="sequence", reverse=True))
RAGGED = Case(CellCase(T, B, I, H, bias="sequence", ragged=True, reverse=True))
WIDE = Case(CellCase(T, 37, I, H))
BATCH_AXIS = {"y": 1, "dx": 1, "h_n": 0, "c_n": 0, "dh0": 0, "dc0": 0, "db_ih": 0}


def results_of(problem: CellProblem, ops: Any = functional) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        forward = problem.forward(ops)
        return named_arrays(forward) | named_arrays(problem.backward(ops, forward.saved))


def healthy(results: dict[str, Array]) -> dict[str, bytes]:
    """What the other sequences computed."""
    return {
        name: np.delete(results[name], SICK, axis).tobytes()
        for name, axis in BATCH_AXIS.items()
        if name in results and results[name].ndim > 1  # a bias of all sequences is nobody's own
    }


def assert_same_places(got: dict[str, Array], want: dict[str, Array], names: set[str]) -> None:
    """NaN and infinities stand where the reference has them, and what is finite is near.

    Near is within the budget, of 16 bits within some of them: saved activations were rounded on the way.
    """
    dtype = got["y"].dtype
    for name in names & got.keys():
        kind = "gradient" if name.startswith("d") else "forward"
        limit = budget(dtype, kind) * (4 if dtype.itemsize == 2 else 1)
        assert relative_error(got[name], want[name]) <= limit, name


# -- one sick sequence -------------------------------------------------------------------------------------


def sickened(case: Case, kind: str, dtype: str, where: str, value: float) -> CellProblem:
    problem = case.problem(kind, dtype)
    array = (problem.arguments | problem.cotangents)[where]
    array[(2, SICK, 4) if where in ("x", "dy") else (SICK, 4)] = value
    return problem


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("where", ["x", "h0", "c0", "b_ih", "dy", "dh_n", "dc_n"])
@pytest.mark.parametrize("case", [CLEAN, BACKWARDS, WIDE], ids=["forward", "reverse", "wide"])
def test_it_stays_in_its_sequence(kind: str, dtype: str, isa: str, where: str, case: Case) -> None:
    if (where in ("c0", "dc_n") and kind != "lstm") or (where == "b_ih" and case is WIDE):
        return
    with rnnkernels.config(isa=isa):
        clean = results_of(case.problem(kind, dtype))
        assert all(np.isfinite(array).all() for array in clean.values())
        for value in (np.nan, np.inf, -np.inf):
            sick = sickened(case, kind, dtype, where, value)
            got = results_of(sick)
            assert healthy(got) == healthy(clean)
            if kind != "rnn_relu":  # which drops the gradient of a unit that is off
                assert any(got[name].tobytes() != clean[name].tobytes() for name in ("dx", "dh0"))
                assert_same_places(got, results_of(sick.as_float64(), reference), set(BATCH_AXIS))


@each_kind
@each_isa
@pytest.mark.parametrize("case", [CLEAN, BACKWARDS, WIDE], ids=["forward", "reverse", "wide"])
def test_nan_passes_from_its_step_on(kind: str, isa: str, case: Case) -> None:
    problem, sick = case.problem(kind, "float32"), case.problem(kind, "float32")
    sick.arguments["x"][2, SICK, 0] = np.nan
    with rnnkernels.config(isa=isa):
        clean, got = results_of(problem), results_of(sick)
    after = np.arange(T) <= 2 if case is BACKWARDS else np.arange(T) >= 2
    assert np.isnan(got["y"][after, SICK]).all()
    assert np.isnan(got["h_n"][SICK]).all()
    assert got["y"][~after, SICK].tobytes() == clean["y"][~after, SICK].tobytes()
    assert np.isnan(got["dw_ih"][:, 0]).all()  # the sum over all sequences cannot but have it


@each_dtype
@each_isa
def test_relu_passes_nan(dtype: str, isa: str) -> None:
    """max(0, a), written the wrong way round, would turn it into 0; so would its derivative."""
    one = np.ones((1, 1), dtype)
    x = np.array([np.nan, 1.0, -1.0, np.inf, -np.inf], dtype).reshape(1, 5, 1)
    with rnnkernels.config(isa=isa):
        result = rnnkernels.rnn_forward(x, one, one * 0, nonlinearity="relu")
        grads = rnnkernels.rnn_backward(np.full((1, 5, 1), 3.0, dtype), result.saved)
    np.testing.assert_array_equal(as_float64(result.y.ravel()), [np.nan, 1, 0, np.inf, 0])
    np.testing.assert_array_equal(as_float64(grads.dx.ravel()), [3, 3, 0, 3, 0])  # as PyTorch has it


@each_kind
@each_isa
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "b_hh"])
def test_of_the_weights(kind: str, isa: str, name: str) -> None:
    sick = CLEAN.problem(kind, "float64")
    sick.arguments[name][(3, 2) if name != "b_hh" else 3] = np.nan
    with rnnkernels.config(isa=isa):
        with np.errstate(all="ignore"):
            forward = sick.forward(functional)
            want = sick.forward(reference)
        assert np.isnan(forward.y).any()
        assert_same_places(named_arrays(forward), named_arrays(want), {"y", "h_n", "c_n"})


@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_reset_before", "rnn_tanh"])
@each_dtype
@each_isa
def test_gates_saturate(kind: str, dtype: str, isa: str) -> None:
    """Numbers whose products overflow the dtype."""
    problem = CLEAN.problem(kind, dtype)
    large = np.sqrt(ml_dtypes.finfo(dtype).max).astype(dtype)
    problem.arguments["x"] *= large * large.dtype.type(2)
    problem.arguments["w_ih"] = np.where(problem.arguments["w_ih"] < 0, -large, large)
    problem.arguments["w_ih"][:, 1:] = 0
    with rnnkernels.config(isa=isa):
        got = named_arrays(problem.forward(functional))
    with np.errstate(all="ignore"):
        in_its_dtype = np.dtype(dtype).itemsize > 2  # 16 bits are widened before anything can overflow
        want = named_arrays((problem if in_its_dtype else problem.as_float64()).forward(reference))
    assert all(np.isfinite(got[name]).all() for name in ("y", "h_n"))
    assert_same_places(got, want, {"y", "h_n", "c_n"})


# -- padding -----------------------------------------------------------------------------------------------


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_never_read(kind: str, dtype: str, isa: str, ids: bool, reverse: bool) -> None:
    """The same bits, of weight gradients too, whatever it holds; exact zeros in results and saved arrays."""
    case = Case(CellCase(T, B, I, H, ragged=True, ids=ids, reverse=reverse))
    results = []
    for x_value, dy_value in ((0, 0.0), (-(2**31), np.nan), (2**31 - 1, np.inf)):
        problem = case.problem(kind, dtype)
        x, dy, lengths = problem.arguments["x"], problem.cotangents["dy"], problem.arguments["lengths"]
        padding = np.arange(T)[:, None] >= lengths
        x[padding], dy[padding] = x_value if ids else dy_value, dy_value
        problem.arguments["out"] = {"y": np.full((T, B, H), np.nan, dtype)}
        with rnnkernels.config(isa=isa):
            got = results_of(problem)
        for name in ("y", "dx", "saved.gates", "saved.c", "saved.h"):
            if name in got:
                padded = got[name][padding]
                assert padded.tobytes() == np.zeros_like(padded).tobytes(), name
        assert all(np.isfinite(array).all() for array in got.values())
        results.append({name: array.tobytes() for name, array in got.items()})
    assert results[0] == results[1] == results[2]


@each_kind
@each_isa
def test_a_sequence_of_no_steps_hands_its_state_through(kind: str, isa: str) -> None:
    """NaN included, and into nothing else."""
    problem = RAGGED.problem(kind, "float32")
    assert problem.arguments["lengths"][0] == 0
    given = {"h0": "h_n", "c0": "c_n", "dh_n": "dh0", "dc_n": "dc0"}
    values = problem.arguments | problem.cotangents
    for name in given.keys() & values.keys():
        values[name][0, ::2] = np.nan
    with rnnkernels.config(isa=isa):
        got = results_of(problem)
    for name in given.keys() & values.keys():
        assert got[given[name]][0].tobytes() == values[name][0].tobytes(), name
    for name, array in got.items():
        if name in BATCH_AXIS:
            assert np.isfinite(np.delete(array, 0, BATCH_AXIS[name])).all(), name
        else:
            assert np.isfinite(array).all(), name


@each_kind
@each_isa
def test_stacks_keep_padding_out(kind: str, isa: str) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 3, 7, 1, 5])
    padding = np.arange(7)[:, None] >= lengths
    gates = {"lstm": 4, "gru": 3, "gru_reset_before": 3}.get(kind, 1)

    def weights(columns: int) -> tuple[Array, ...]:
        shapes = ((gates * 9, columns), (gates * 9, 9), (gates * 9,), (gates * 9,))
        return tuple(rng.uniform(-0.3, 0.3, shape).astype(np.float32) for shape in shapes)

    params = [[weights(4), weights(4)], [weights(18), weights(18)]]
    x, dy = rng.standard_normal((7, 5, 4), np.float32), rng.standard_normal((7, 5, 18), np.float32)
    results = []
    for value in (0.0, np.nan):
        x[padding], dy[padding] = value, value
        with rnnkernels.config(isa=isa):
            forward = functional.stack_forward(kind, x, params, lengths=lengths, dropout=0.2, rng=3)
            grads = functional.stack_backward(dy, forward.saved)
        weight_gradients = [array for layer in grads.params for four in layer for array in four]
        results.append([a.tobytes() for a in (forward.y, grads.dx, *weight_gradients)])
        assert not forward.y[padding].any()
        assert not grads.dx[padding].any()
    assert results[0] == results[1]


# -- heads -------------------------------------------------------------------------------------------------


@each_dtype
@each_isa
@pytest.mark.parametrize("head", ["linear", "cross_entropy", "linear_cross_entropy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_stays_in_its_row(dtype: str, isa: str, head: str, value: float) -> None:
    case = HeadCase((B,), I, H, reduction="none")
    clean, sick = case.arguments(dtype), case.arguments(dtype)
    for name in ("x", "h", "logits", "dy"):
        sick[name][SICK, 3] = value
    rows = ("y", "loss", "dx", "dh", "dlogits")
    with rnnkernels.config(isa=isa):
        results = [
            [
                np.delete(array, SICK, 0).tobytes()
                for part in run_head(head, functional, arguments)
                for name, array in named_arrays(part).items()
                if name in rows
            ]
            for arguments in (clean, sick)
        ]
    assert results[0] == results[1]


@each_dtype
@each_isa
@pytest.mark.parametrize("columns", [3, 16, 21, 40])
def test_logits_that_are_not_finite(dtype: str, isa: str, columns: int) -> None:
    """As the reference and PyTorch have it: -inf is a class that cannot be, all else makes the row NaN."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((7, columns)).astype(dtype)
    logits[1, 0] = -np.inf
    logits[2, 1:] = -np.inf
    logits[3] = -np.inf
    logits[4, columns - 1] = np.inf
    logits[5, columns - 1] = np.nan
    logits[6, 1] = -np.inf  # its target
    targets = np.array([0, 1, 0, 0, 0, 0, 1])
    with rnnkernels.config(isa=isa), np.errstate(all="ignore"):
        got = functional.softmax_cross_entropy_forward(logits, targets, reduction="none")
        grads = functional.softmax_cross_entropy_backward(None, got.saved)
        want = reference.softmax_cross_entropy_forward(as_float64(logits), targets, reduction="none")
        want_grads = reference.softmax_cross_entropy_backward(None, want.saved)
    np.testing.assert_array_equal(np.isfinite(want.loss), [True, True, True, False, False, False, False])
    assert_within_budget(got.loss, want.loss, "forward", dtype=dtype)
    assert_within_budget(grads.dlogits, want_grads.dlogits, "gradient")
