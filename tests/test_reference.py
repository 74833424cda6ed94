"""The references against central differences and their own contract: padding, direction, ids, out, errors.

test_reference_torch.py holds the comparison with PyTorch.  Cases are tiny and, where nothing else is said,
float64; a gradient is right when all of its elements are.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import rnnkernels.reference as reference
from gradcheck import assert_gradient
from rnnkernels.reference.common import sigmoid
from rnnkernels.types import Array

T, B, I, H = 5, 4, 3, 2
LENGTHS = [3, 5, 0, 1]


@dataclass(frozen=True)
class Cell:
    """A cell under test: forward and backward, their options, its number of gates and its states."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    gates: int
    options: dict[str, Any] = field(default_factory=dict)
    states: tuple[str, ...] = ("h0",)


CELLS = {
    "lstm": Cell(reference.lstm_forward, reference.lstm_backward, 4, states=("h0", "c0")),
    "gru": Cell(reference.gru_forward, reference.gru_backward, 3),
    "gru_reset_before": Cell(reference.gru_forward, reference.gru_backward, 3, {"reset_after": False}),
    "rnn_tanh": Cell(reference.rnn_forward, reference.rnn_backward, 1),
    "rnn_relu": Cell(reference.rnn_forward, reference.rnn_backward, 1, {"nonlinearity": "relu"}),
}

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "reverse": {"reverse": True},
    "lengths-reverse": {"lengths": LENGTHS, "reverse": True},
    "ids": {"ids": np.int64},
    "ids-lengths-reverse": {"ids": np.int32, "lengths": LENGTHS, "reverse": True},
    "bias-per-sequence": {"per_sequence": True, "lengths": LENGTHS},
    "no-bias": {"b_ih": None, "b_hh": None},
    "only-b_ih": {"b_hh": None},
    "only-b_hh": {"b_ih": None},
    "no-state": {"h0": None, "c0": None, "lengths": LENGTHS, "reverse": True},
    "no-c0": {"c0": None},
}


@pytest.fixture(params=CELLS, ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    return CELLS[request.param]


def arguments(
    cell: Cell,
    *,
    ids: type | None = None,
    per_sequence: bool = False,
    dtype: type = np.float64,
    **options: Any,
) -> dict[str, Any]:
    """Random arguments of the cell's forward, by name; options replace or extend them."""
    rng = np.random.default_rng(5)
    rows = cell.gates * H
    x = rng.normal(size=(T, B, I)).astype(dtype)
    made = {
        "x": x if ids is None else rng.integers(I, size=(T, B)).astype(ids),
        "w_ih": rng.normal(size=(rows, I)).astype(dtype),
        "w_hh": rng.normal(size=(rows, H)).astype(dtype),
        "b_ih": rng.normal(size=(B, rows) if per_sequence else rows).astype(dtype),
        "b_hh": rng.normal(size=rows).astype(dtype),
        **{name: rng.normal(size=(B, H)).astype(dtype) for name in cell.states},
        **cell.options,
    }
    return made | {k: v for k, v in options.items() if k != "c0" or "c0" in cell.states}


def cotangents(cell: Cell, dtype: type = np.float64) -> dict[str, Array]:
    """Random gradients with respect to y and the last states, by the names that backward gives them."""
    rng = np.random.default_rng(6)
    last = {f"d{name[0]}_n": rng.normal(size=(B, H)).astype(dtype) for name in cell.states}
    return {"dy": rng.normal(size=(T, B, H)).astype(dtype), **last}


def padding(lengths: Any = LENGTHS) -> Array:
    """(T, B), True where a step is padding."""
    return np.arange(T)[:, None] >= np.asarray(lengths)


def assert_gradients(
    cell: Cell, arguments: dict[str, Any], backward: Callable[..., Any] | None = None
) -> None:
    """Assert that every gradient of a random weighting of y, h_n (and c_n) is right."""
    weights = cotangents(cell)

    def loss() -> float:
        result = cell.forward(**arguments, save=False)
        return sum(float((w * r).sum()) for w, r in zip(weights.values(), result[:-1], strict=True))

    grads = (backward or cell.backward)(saved=cell.forward(**arguments).saved, **weights)
    for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh", *cell.states):
        gradient, argument = getattr(grads, f"d{name}"), arguments[name]
        if argument is None and name in cell.states:
            zeros = np.zeros((B, H))
            arguments = arguments | {
                name: zeros
            }  # the gradient of a state that was left out exists all the same
            assert_gradient(gradient, loss, zeros, name)
        elif argument is None or argument.dtype.kind == "i":
            assert gradient is None
        else:
            assert_gradient(gradient, loss, argument, name)


# -- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_central_differences(cell: Cell, form: str) -> None:
    assert_gradients(cell, arguments(cell, **FORMS[form]))


def test_absent_cotangents_count_as_zeros(cell: Cell) -> None:
    saved = cell.forward(**arguments(cell, lengths=LENGTHS)).saved
    weights = cotangents(cell)
    for name in weights:
        got = cell.backward(saved=saved, **weights | {name: None})
        want = cell.backward(saved=saved, **weights | {name: np.zeros_like(weights[name])})
        assert_equal_tuples(got, want)


def test_permuted_gates_fail_the_check() -> None:
    cell = CELLS["lstm"]

    def permuted(saved: Any, **weights: Any) -> Any:
        i, f, g, o = np.split(saved.gates, 4, axis=-1)
        return cell.backward(
            saved=dataclasses.replace(saved, gates=np.concatenate([f, i, g, o], -1)), **weights
        )

    with pytest.raises(AssertionError, match="away from central differences"):
        assert_gradients(cell, arguments(cell), permuted)


@pytest.mark.parametrize("name", ["h0", "dh_n"])
def test_dropped_term_fails_the_check(cell: Cell, name: str) -> None:
    def without(saved: Any, **weights: Any) -> Any:
        if name == "dh_n":
            return cell.backward(saved=saved, **weights | {"dh_n": None})
        return cell.backward(saved=dataclasses.replace(saved, h0=None), **weights)

    with pytest.raises(AssertionError, match="away from central differences"):
        assert_gradients(cell, arguments(cell), without)


@pytest.mark.parametrize("wrong", [None, [3, 5, 0, 2], [2, 5, 0, 1]], ids=["none", "longer", "shorter"])
def test_wrong_mask_fails_the_check(cell: Cell, wrong: list[int] | None) -> None:
    lengths = None if wrong is None else np.array(wrong)

    def masked(saved: Any, **weights: Any) -> Any:
        return cell.backward(saved=dataclasses.replace(saved, lengths=lengths), **weights)

    with pytest.raises(AssertionError, match="away from central differences"):
        assert_gradients(cell, arguments(cell, lengths=LENGTHS), masked)


# -- padding and direction ---------------------------------------------------------------------------------


def assert_equal_tuples(got: Any, want: Any) -> None:
    """Assert that two results, apart from what they saved, hold the same bits."""
    for name, a, b in zip(want._fields, got, want, strict=True):
        if name != "saved":
            np.testing.assert_array_equal(a, b, err_msg=name, strict=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [None, np.int64])
def test_padding_is_never_read_and_always_zero(cell: Cell, reverse: bool, ids: type | None) -> None:
    clean = arguments(cell, ids=ids, lengths=LENGTHS, reverse=reverse)
    x = clean["x"].copy()
    x[padding()] = np.nan if ids is None else -(2**40)
    weights = cotangents(cell)
    dirty_dy = np.where(padding()[..., None], np.inf, weights["dy"])

    want, got = cell.forward(**clean), cell.forward(**clean | {"x": x})
    assert_equal_tuples(got, want)
    for name in ("y", "saved.gates", "saved.c", "saved.h"):
        holder, _, attribute = name.rpartition(".")
        array = getattr(got.saved if holder else got, attribute, None)
        assert array is None or not array[padding()].any(), name
    want_grads = cell.backward(saved=want.saved, **weights)
    got_grads = cell.backward(saved=got.saved, **weights | {"dy": dirty_dy})
    assert_equal_tuples(got_grads, want_grads)
    assert got_grads.dx is None if ids else not got_grads.dx[padding()].any()


def test_length_zero_hands_the_states_through(cell: Cell) -> None:
    made, weights = arguments(cell, lengths=LENGTHS), cotangents(cell)
    result = cell.forward(**made)
    grads = cell.backward(saved=result.saved, **weights)
    for name in cell.states:
        np.testing.assert_array_equal(getattr(result, f"{name[0]}_n")[2], made[name][2])
        np.testing.assert_array_equal(getattr(grads, f"d{name}")[2], weights[f"d{name[0]}_n"][2])


@pytest.mark.parametrize("reverse", [False, True])
def test_ragged_batch_is_its_sequences_one_by_one(cell: Cell, reverse: bool) -> None:
    made = arguments(cell, per_sequence=True, reverse=reverse)
    got = cell.forward(**made, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        alone = {k: v[b : b + 1] for k, v in made.items() if k in ("b_ih", *cell.states)}
        want = cell.forward(**made | alone | {"x": made["x"][:length, b : b + 1]})
        np.testing.assert_allclose(got.y[:length, b], want.y[:, 0], rtol=1e-13)
        np.testing.assert_allclose(got.h_n[b], want.h_n[0], rtol=1e-13)


def test_reverse_is_forward_over_each_sequence_turned_round(cell: Cell) -> None:
    made = arguments(cell)
    turned = made["x"].copy()
    for b, length in enumerate(LENGTHS):
        turned[:length, b] = turned[:length, b][::-1]
    got = cell.forward(**made, lengths=LENGTHS, reverse=True)
    want = cell.forward(**made | {"x": turned}, lengths=LENGTHS)
    np.testing.assert_array_equal(got.h_n, want.h_n)
    for b, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(got.y[:length, b], want.y[:length, b][::-1])


@pytest.mark.parametrize(
    "lengths", [tuple(LENGTHS), np.array(LENGTHS, np.uint8), [T] * B], ids=["tuple", "uint8", "full"]
)
def test_lengths_may_be_any_integer_sequence(cell: Cell, lengths: Any) -> None:
    made = arguments(cell)
    want = cell.forward(**made, lengths=None if list(lengths) == [T] * B else LENGTHS)
    got = cell.forward(**made, lengths=lengths)
    assert_equal_tuples(got, want)
    assert got.saved.lengths.dtype == np.int64


def test_ids_are_a_one_hot_product(cell: Cell) -> None:
    made, weights = arguments(cell, ids=np.int64), cotangents(cell)
    got, want = cell.forward(**made), cell.forward(**made | {"x": np.eye(I)[made["x"]]})
    np.testing.assert_allclose(got.y, want.y, rtol=1e-13)
    got_dw = cell.backward(saved=got.saved, **weights).dw_ih
    np.testing.assert_allclose(got_dw, cell.backward(saved=want.saved, **weights).dw_ih, rtol=1e-12)


def test_non_finite_values_stay_in_their_own_sequence(cell: Cell) -> None:
    made = arguments(cell)
    poisoned = made | {"x": made["x"].copy()}
    poisoned["x"][2, 1] = np.nan
    want, got = cell.forward(**made), cell.forward(**poisoned)
    assert np.isnan(got.y[2:, 1]).all()
    np.testing.assert_array_equal(got.y[:, [0, 2, 3]], want.y[:, [0, 2, 3]])
    grads = cell.backward(np.ones((T, B, H)), got.saved)
    assert np.isnan(grads.dw_ih).any()
    assert np.isfinite(grads.dx[:, [0, 2, 3]]).all()


# -- arrays: dtypes, saved, out, accumulate, needs -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_results_keep_the_dtype_of_the_arguments(cell: Cell, dtype: type) -> None:
    tolerance = 200 * float(np.finfo(dtype).eps) + 1e-12
    results = []
    for each in (dtype, np.float64):
        made = arguments(cell, dtype=each, lengths=LENGTHS)
        if each is np.float64:  # of the same, rounded values
            made = {
                k: v.astype(dtype).astype(each) if getattr(v, "dtype", 0) == each else v
                for k, v in made.items()
            }
        weights = {k: v.astype(dtype).astype(each) for k, v in cotangents(cell).items()}
        result = cell.forward(**made)
        results.append((*result[:-1], *cell.backward(saved=result.saved, **weights)))
    for got, want in zip(*results, strict=True):
        if want is None:
            assert got is None
            continue
        assert got.dtype == dtype
        assert got.flags.c_contiguous
        assert np.abs(got - want).max() <= tolerance * max(1, np.abs(want).max())


def test_saved_holds_what_it_documents(cell: Cell) -> None:
    made = arguments(cell, lengths=LENGTHS)
    result = cell.forward(**made)
    saved = result.saved
    for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh", *cell.states):
        assert getattr(saved, name) is made[name], f"{name} is borrowed"
    assert not np.shares_memory(saved.h, result.y)
    np.testing.assert_array_equal(saved.h, result.y)
    np.testing.assert_array_equal(saved.lengths, LENGTHS)
    if "c0" in cell.states:
        i, f, g, o = np.split(saved.gates[0], 4, axis=-1)
        first = ~padding()[0]
        np.testing.assert_allclose(saved.c[0, first], (f * made["c0"] + i * g)[first])
        np.testing.assert_allclose(saved.h[0, first], (o * np.tanh(saved.c[0]))[first])
    with pytest.raises(dataclasses.FrozenInstanceError):
        saved.h = None
    assert cell.forward(**made, save=False).saved is None


def test_saved_gates_of_both_gru_forms() -> None:
    for reset_after, width in ((True, 4), (False, 3)):
        made = arguments(CELLS["gru"]) | {"reset_after": reset_after}
        saved = reference.gru_forward(**made).saved
        assert saved is not None
        assert saved.gates.shape == (T, B, width * H)
        r, z, n, *hn = np.split(saved.gates[0], width, axis=-1)
        np.testing.assert_allclose(saved.h[0], (1 - z) * n + z * made["h0"])
        w_hn, b_hn = made["w_hh"][2 * H :], made["b_hh"][2 * H :]
        xn = (made["x"][0] @ made["w_ih"].T + made["b_ih"])[:, 2 * H :]
        if reset_after:
            np.testing.assert_allclose(hn[0], made["h0"] @ w_hn.T + b_hn)
            np.testing.assert_allclose(n, np.tanh(xn + r * hn[0]))
        else:
            np.testing.assert_allclose(n, np.tanh(xn + (r * made["h0"]) @ w_hn.T + b_hn))


def test_nothing_given_is_written_to(cell: Cell) -> None:
    made, weights = arguments(cell, lengths=np.array(LENGTHS)), cotangents(cell)
    for array in (*made.values(), *weights.values()):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    cell.backward(saved=cell.forward(**made).saved, **weights)


def test_out_receives_the_results(cell: Cell) -> None:
    made, weights = arguments(cell), cotangents(cell)
    want = cell.forward(**made)
    y = np.full((B, H, T), np.nan).transpose(2, 0, 1)  # any strides
    got = cell.forward(**made, out={"y": y, "h_n": None})
    assert got.y is y
    assert_equal_tuples(got, want)
    again = cell.forward(**made, out=got)
    assert all(a is b for a, b in zip(again[:-1], got[:-1], strict=True))

    want_grads = cell.backward(saved=want.saved, **weights)
    old = [None if g is None else g.copy() for g in want_grads]
    summed = cell.backward(saved=want.saved, **weights, out=want_grads, accumulate=True)
    for total, given, once in zip(summed, want_grads, old, strict=True):
        assert total is given
        assert once is None or np.array_equal(total, 2 * once)
    overwritten = cell.backward(saved=want.saved, **weights, out=summed)
    for now, once in zip(overwritten, old, strict=True):
        np.testing.assert_array_equal(now, once)


def test_accumulate_without_an_array_starts_at_zero(cell: Cell) -> None:
    saved, weights = cell.forward(**arguments(cell)).saved, cotangents(cell)
    dw_hh = np.ones((cell.gates * H, H))
    got = cell.backward(saved=saved, **weights, out={"dw_hh": dw_hh}, accumulate=True)
    want = cell.backward(saved=saved, **weights)
    np.testing.assert_array_equal(got.dw_hh, want.dw_hh + 1)
    np.testing.assert_array_equal(got.dw_ih, want.dw_ih)


def test_needs_selects_gradients(cell: Cell) -> None:
    saved, weights = cell.forward(**arguments(cell)).saved, cotangents(cell)
    full = cell.backward(saved=saved, **weights)
    for needs in ([], {"dx"}, ("dw_hh", "dh0"), {"db_ih"}):
        got = cell.backward(saved=saved, **weights, needs=needs)
        for name in full._fields:
            np.testing.assert_array_equal(getattr(got, name), getattr(full, name) if name in needs else None)


def test_empty_sizes_give_empty_results(cell: Cell) -> None:
    for t, b, i, h in ((0, 2, 3, 2), (3, 0, 3, 2), (3, 2, 0, 2), (3, 2, 3, 0), (0, 0, 0, 0)):
        rows = cell.gates * h
        made = [np.zeros(s) for s in ((t, b, i), (rows, i), (rows, h), (rows,), (rows,))]
        result = cell.forward(*made, **cell.options)
        assert result.y.shape == (t, b, h)
        grads = cell.backward(np.ones((t, b, h)), result.saved)
        assert [g.shape for g in grads[:5]] == [m.shape for m in made]


# -- refusals ----------------------------------------------------------------------------------------------

F32 = np.float32
REFUSALS: list[tuple[str, Any, type[Exception], str]] = [
    ("x", [[1.0]], TypeError, "expected a NumPy array, got list"),
    ("x", np.zeros((T, I)), ValueError, "expected (T, B, I) or token ids (T, B), got (5, 3)"),
    ("x", np.zeros((T, B, 7)), ValueError, "expected (T, B, I) = (5, 4, 3), got (5, 4, 7)"),
    ("x", np.zeros((T, B, I), ">f8"), TypeError, "expected a native floating-point dtype, got >f8"),
    ("x", np.full((T, B), 3), ValueError, "expected token ids in [0, I) = [0, 3), got 3 at (0, 0)"),
    ("x", np.full((T, B), -1), ValueError, "expected token ids in [0, I) = [0, 3), got -1 at (0, 0)"),
    ("x", np.zeros((T, B), np.int8), TypeError, "expected token ids of int32 or int64"),
    ("w_ih", np.zeros((8, I), int), TypeError, "expected a native floating-point dtype, got int64"),
    ("w_ih", np.zeros((9, I)), ValueError, "expected (4*H, I), got (9, 3)"),
    ("w_hh", np.zeros((8, H), F32), TypeError, "expected float64 like x, got float32"),
    ("w_hh", np.zeros((8, 3)), ValueError, "expected (4*H, H) = (8, 2), got (8, 3)"),
    ("b_ih", np.zeros(7), ValueError, "expected (4*H) = (8,), got (7,)"),
    ("b_ih", np.zeros((3, 8)), ValueError, "expected (B, 4*H) = (4, 8), got (3, 8)"),
    ("b_hh", np.zeros((4, 8)), ValueError, "expected (4*H) = (8,), got (4, 8)"),
    ("h0", np.zeros((H, B)), ValueError, "expected (B, H) = (4, 2), got (2, 4)"),
    ("c0", np.zeros((B, H), F32), TypeError, "expected float64 like x, got float32"),
    ("lengths", [1, 1, 9, 1], ValueError, "expected values in [0, T] = [0, 5], got 9 at index 2"),
    ("lengths", [-1, 1, 1, 1], ValueError, "expected values in [0, T] = [0, 5], got -1 at index 0"),
    ("lengths", [1], ValueError, "expected (B) = (4,), got (1,)"),
    ("lengths", [1.0] * 4, TypeError, "expected integers, got float64"),
    ("lengths", [True] * 4, TypeError, "expected integers, got bool"),
    ("out", {"z": np.zeros(1)}, ValueError, "expected names among y, h_n, c_n, saved, got 'z'"),
    ("out", {"y": np.zeros((T, B, 3))}, ValueError, "expected the result's shape = (5, 4, 2), got (5, 4, 3)"),
    ("out", {"y": np.zeros((T, B, H), F32)}, TypeError, "['y']: expected float64 like x, got float32"),
    ("out", np.zeros(3), TypeError, "expected a mapping or a result tuple, got ndarray"),
]


@pytest.mark.parametrize(("name", "value", "error", "text"), REFUSALS)
def test_bad_arguments_are_refused_by_name(name: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as refusal:
        reference.lstm_forward(**arguments(CELLS["lstm"]) | {name: value})
    assert str(refusal.value).startswith(name)
    assert text in str(refusal.value)


def test_bad_arguments_of_backward_are_refused_by_name() -> None:
    saved = reference.lstm_forward(**arguments(CELLS["lstm"])).saved
    dy = np.zeros((T, B, H))
    with pytest.raises(ValueError, match=r"needs: expected names among dx, .*, got 'dq'"):
        reference.lstm_backward(dy, saved, needs={"dx", "dq"})
    with pytest.raises(ValueError, match=r"dy: expected \(T, B, H\) = \(5, 4, 2\), got \(5, 4\)"):
        reference.lstm_backward(dy[..., 0], saved)
    with pytest.raises(TypeError, match="dh_n: expected float64 like x, got float32"):
        reference.lstm_backward(dy, saved, np.zeros((B, H), np.float32))
    with pytest.raises(TypeError, match="saved: expected GRUSaved, got LSTMSaved"):
        reference.gru_backward(dy, saved)
    with pytest.raises(TypeError, match="saved: expected LSTMSaved, got NoneType"):
        reference.lstm_backward(dy, None)
    frozen = np.zeros((B, H))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"out\['dh0'\]: expected a writeable array"):
        reference.lstm_backward(dy, saved, out={"dh0": frozen})
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'sine'"):
        reference.rnn_forward(**arguments(CELLS["rnn_tanh"]) | {"nonlinearity": "sine"})


# -- sigmoid and relu --------------------------------------------------------------------------------------


def test_sigmoid_is_accurate_in_both_tails_and_silent() -> None:
    with np.errstate(all="raise", under="ignore"):
        x = np.array([-1e4, -700.0, -40.0, 0.0, 40.0, 1e4, np.inf, -np.inf])
        got = sigmoid(x)
    np.testing.assert_allclose(got, [0, np.exp(-700), np.exp(-40), 0.5, 1 - np.exp(-40), 1, 1, 0], rtol=1e-15)
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


def test_relu_passes_nan_on_and_has_no_gradient_at_zero() -> None:
    x = np.array([np.nan, 0.0, -1.0, 2.0]).reshape(1, 4, 1)
    result = reference.rnn_forward(x, np.eye(1), np.zeros((1, 1)), nonlinearity="relu")
    np.testing.assert_array_equal(result.y.ravel(), [np.nan, 0, 0, 2])
    grads = reference.rnn_backward(np.ones((1, 4, 1)), result.saved)
    np.testing.assert_array_equal(grads.dx.ravel(), [1, 0, 0, 1])


# -- heads -------------------------------------------------------------------------------------------------

V = 5
TARGETS = np.array([[0, 4, -1], [2, -1, 1]])  # -1 is ignored


def head_arguments() -> tuple[Array, Array, Array]:
    """h (2, 3, H), w (V, H), b (V)."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(2, 3, H)), rng.normal(size=(V, H)), rng.normal(size=V)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_gradients(bias: bool) -> None:
    x, w, b = head_arguments()
    given = b if bias else None
    dy = np.random.default_rng(8).normal(size=(2, 3, V))
    result = reference.linear_forward(x, w, given)
    np.testing.assert_allclose(result.y, np.einsum("tbi,oi->tbo", x, w) + (b if bias else 0))
    grads = reference.linear_backward(dy, result.saved)

    def loss() -> float:
        return float((dy * reference.linear_forward(x, w, given, save=False).y).sum())

    assert_gradient(grads.dx, loss, x, "x")
    assert_gradient(grads.dw, loss, w, "w")
    if bias:
        assert_gradient(grads.db, loss, b, "b")
    else:
        assert grads.db is None
    assert reference.linear_forward(x, w, save=False).saved is None


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_cross_entropy_gradients(reduction: str, dtype: type) -> None:
    logits = np.random.default_rng(9).normal(size=(2, 3, V))
    targets, options = TARGETS.astype(dtype), {"ignore_index": -1, "reduction": reduction}
    dloss = np.random.default_rng(10).normal(size=(2, 3) if reduction == "none" else ())
    dloss = np.asarray(dloss)
    result = reference.softmax_cross_entropy_forward(logits, targets, **options)
    assert result.saved.count == 4

    def loss() -> float:
        return float((dloss * reference.softmax_cross_entropy_forward(logits, targets, **options).loss).sum())

    grads = reference.softmax_cross_entropy_backward(dloss, result.saved)
    assert_gradient(grads.dlogits, loss, logits, "logits")
    assert not grads.dlogits[targets == -1].any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_cross_entropy_is_both_heads_in_one(reduction: str, bias: bool) -> None:
    h, w, b = head_arguments()
    given, options = b if bias else None, {"ignore_index": -1, "reduction": reduction}
    linear = reference.linear_forward(h, w, given)
    want = reference.softmax_cross_entropy_forward(linear.y, TARGETS, **options)
    got = reference.linear_cross_entropy_forward(h, w, given, TARGETS, **options)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-14)
    assert got.saved.count == want.saved.count == 4
    counted = TARGETS != -1
    np.testing.assert_allclose(got.saved.lse[counted], want.saved.lse[counted], rtol=1e-14)

    dlogits = reference.softmax_cross_entropy_backward(1.5, want.saved).dlogits
    want_grads = reference.linear_backward(dlogits, linear.saved)
    grads = reference.linear_cross_entropy_backward(1.5, got.saved)
    for a, wanted in zip(grads, want_grads, strict=True):
        assert (a is None) == (wanted is None)
        if a is not None:
            np.testing.assert_allclose(a, wanted, rtol=1e-12, atol=1e-15)

    def loss() -> float:
        result = reference.linear_cross_entropy_forward(h, w, given, TARGETS, **options)
        return float(1.5 * result.loss.sum())

    assert_gradient(grads.dh, loss, h, "h")
    assert_gradient(grads.dw, loss, w, "w")


def test_ignored_rows_do_not_enter_whatever_they_hold() -> None:
    h, w, b = head_arguments()
    want = reference.linear_cross_entropy_forward(h, w, b, TARGETS, ignore_index=-1)
    want_grads = reference.linear_cross_entropy_backward(None, want.saved)
    h[TARGETS == -1] = np.nan
    got = reference.linear_cross_entropy_forward(h, w, b, TARGETS, ignore_index=-1)
    assert got.loss == want.loss
    assert_equal_tuples(reference.linear_cross_entropy_backward(None, got.saved), want_grads)
    assert not want_grads.dh[TARGETS == -1].any()


def test_cross_entropy_edges() -> None:
    forward, backward = reference.softmax_cross_entropy_forward, reference.softmax_cross_entropy_backward
    none = forward(np.zeros((2, V)), np.array([-100, -100]))
    assert np.isnan(none.loss)
    assert none.loss.shape == ()
    assert not backward(None, none.saved).dlogits.any()
    assert forward(np.zeros((2, V)), np.array([-100, -100]), reduction="sum").loss == 0

    far = forward(np.array([[1e4, -1e4], [1e4, -1e4]]), np.array([0, 1]), reduction="none")
    np.testing.assert_array_equal(far.loss, [0, 2e4])
    masked = forward(np.array([[0.0, -np.inf]]), np.array([0]))
    assert masked.loss == 0
    np.testing.assert_array_equal(backward(None, masked.saved).dlogits, [[0, 0]])
    one = forward(np.zeros(V, np.float32), np.array(3))  # a single row, no batch
    assert one.loss.dtype == np.float32
    np.testing.assert_allclose(one.loss, np.log(V), rtol=1e-6)
    assert forward(np.zeros((0, V)), np.zeros(0, int), reduction="none").loss.shape == (0,)
    ignored_class = forward(np.zeros((2, V)), np.array([1, 0]), ignore_index=0)
    assert ignored_class.saved.count == 1


def test_bad_arguments_of_the_heads_are_refused_by_name() -> None:
    h, w, b = head_arguments()
    logits = np.zeros((2, 3, V))
    with pytest.raises(ValueError, match=r"x: expected \(..., I\) = \(2, 3, 2\), got \(2, 3, 5\)"):
        reference.linear_forward(logits, w)
    with pytest.raises(ValueError, match=r"b: expected \(O\) = \(5,\), got \(2,\)"):
        reference.linear_forward(h, w, b[:2])
    with pytest.raises(ValueError, match=r"got 5 at \(1, 2\)"):
        reference.softmax_cross_entropy_forward(logits, np.array([[0, 0, 0], [0, 0, 5]]))
    with pytest.raises(ValueError, match=r"targets: expected \(2, 3\), got \(3, 2\)"):
        reference.softmax_cross_entropy_forward(logits, TARGETS.T)
    with pytest.raises(TypeError, match="targets: expected int32 or int64, got float64"):
        reference.softmax_cross_entropy_forward(logits, TARGETS.astype(float))
    with pytest.raises(ValueError, match="reduction: expected 'mean', 'sum' or 'none', got 'max'"):
        reference.linear_cross_entropy_forward(h, w, b, TARGETS, ignore_index=-1, reduction="max")
    saved = reference.softmax_cross_entropy_forward(logits, TARGETS, ignore_index=-1).saved
    with pytest.raises(ValueError, match=r"dloss: expected the loss's shape = \(\), got \(2, 3\)"):
        reference.softmax_cross_entropy_backward(np.zeros((2, 3)), saved)
    with pytest.raises(TypeError, match="saved: expected LinearCrossEntropySaved, got CrossEntropySaved"):
        reference.linear_cross_entropy_backward(None, saved)


# -- stacks and dropout ------------------------------------------------------------------------------------


def stack_arguments(kind: str, layers: int = 2, directions: int = 2) -> dict[str, Any]:
    """x (T, B, I), params and hx of a stack."""
    rng, cell = np.random.default_rng(11), CELLS[kind]
    rows, LD = cell.gates * H, layers * directions
    params = [
        [
            tuple(rng.normal(size=s) for s in ((rows, directions * H if layer else I), (rows, H), rows, rows))
            for _ in range(directions)
        ]
        for layer in range(layers)
    ]
    hx = tuple(rng.normal(size=(LD, B, H)) for _ in cell.states)
    return {
        "kind": kind,
        "x": rng.normal(size=(T, B, I)),
        "params": params,
        "hx": hx if len(hx) == 2 else hx[0],
    }


def leaves(tree: Any) -> list[Array]:
    """The arrays of nested tuples, lists and Nones, in order."""
    if tree is None:
        return []
    return [tree] if isinstance(tree, np.ndarray) else [leaf for branch in tree for leaf in leaves(branch)]


@pytest.mark.parametrize("kind", CELLS)
def test_stack_gradients_with_dropout_and_lengths(kind: str) -> None:
    made = stack_arguments(kind)
    options = {"lengths": LENGTHS, "dropout": 0.4, "rng": 12345}
    result = reference.stack_forward(**made, **options)
    rng = np.random.default_rng(13)
    weights = [rng.normal(size=a.shape) for a in leaves((result.y, result.hx))]
    dhx = tuple(weights[1:]) if kind == "lstm" else weights[1]

    def loss() -> float:
        out = reference.stack_forward(**made, **options, save=False)
        return sum(float((w * a).sum()) for w, a in zip(weights, leaves((out.y, out.hx)), strict=True))

    grads = reference.stack_backward(weights[0], result.saved, dhx)
    got = leaves((grads.dx, grads.dhx, grads.params))
    arrays = leaves((made["x"], made["hx"], made["params"]))
    for index, (gradient, array) in enumerate(zip(got, arrays, strict=True)):
        assert_gradient(gradient, loss, array, f"leaf {index}")


@pytest.mark.parametrize("kind", CELLS)
def test_stack_is_its_layers_one_above_the_other(kind: str) -> None:
    made, cell = stack_arguments(kind), CELLS[kind]
    states = made["hx"] if kind == "lstm" else (made["hx"],)
    x, last = made["x"], []
    for layer, pair in enumerate(made["params"]):
        results = [
            cell.forward(x, *p, *(s[2 * layer + d] for s in states), reverse=d == 1, **cell.options)
            for d, p in enumerate(pair)
        ]
        x = np.concatenate([r.y for r in results], axis=-1)
        last += [r.h_n for r in results]
    got = reference.stack_forward(**made)
    np.testing.assert_array_equal(got.y, x)
    np.testing.assert_array_equal(got.hx[0] if kind == "lstm" else got.hx, last)


def test_stack_needs_ids_and_absent_arrays() -> None:
    made = stack_arguments("lstm", directions=1) | {"hx": None}
    made["params"] = [[(w_ih, w_hh, None, None)] for [(w_ih, w_hh, _, _)] in made["params"]]
    made["x"] = np.zeros((T, B), np.int64)
    saved = reference.stack_forward(**made).saved
    full = reference.stack_backward(None, saved, (np.ones((2, B, H)), np.ones((2, B, H))))
    assert full.dx is None
    assert full.dhx[0].shape == (2, B, H)
    assert [g is None for g in full.params[1][0]] == [False, False, True, True]
    only = reference.stack_backward(np.ones((T, B, H)), saved, needs={"params"})
    assert only.dhx is None
    with pytest.raises(ValueError, match="needs: expected names among dx, dhx, params, got 'dy'"):
        reference.stack_backward(None, saved, needs=["dy"])
    assert reference.stack_forward(**made, save=False).saved is None


def test_bad_arguments_of_a_stack_are_refused_by_name() -> None:
    made = stack_arguments("gru")
    for wrong, text in (
        (
            {"kind": "gru2"},
            "kind: expected one of lstm, gru, gru_reset_before, rnn_tanh, rnn_relu, got 'gru2'",
        ),
        ({"params": []}, "params: expected one or more layers of 1 or 2 directions each, got []"),
        ({"params": [made["params"][0], made["params"][0][:1]]}, "params: expected one or more layers"),
        ({"hx": np.zeros((3, B, H))}, "hx: expected (L*D, B, H) with L*D = 4, got (3, 4, 2)"),
        ({"hx": (made["hx"], made["hx"])}, "hx: expected 1 array(s), for h0, got 2"),
        ({"dropout": 1.5}, "dropout: expected a rate in [0, 1], got 1.5"),
        ({"dropout": 0.5, "rng": 2**64}, "rng: expected a key in [0, 2**64)"),
    ):
        with pytest.raises(ValueError) as refusal:
            reference.stack_forward(**made | wrong)
        assert text in str(refusal.value)


def test_philox_gives_the_published_numbers() -> None:
    """The known answers for philox4x32 with 10 rounds that are published with Random123."""
    for counter, key, answer in (
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ):
        words = [int(word, 16) for word in counter.split()]
        low, high = (int(word, 16) for word in key.split())
        got = reference.philox4x32(np.array(words, np.uint32), low | high << 32)
        assert " ".join(f"{word:08x}" for word in got) == answer


def test_dropout_mask_reads_the_words_it_documents() -> None:
    key, p, shape = 0x1234_5678_9ABC_DEF0, 0.3, (3, 2, 5)
    kept = reference.dropout_mask(key, 7, shape, p)
    for e, got in enumerate(kept.ravel()):
        block = reference.philox4x32(np.array([e // 4, 0, 7, 0], np.uint32), key)
        assert got == ((block[e % 4] >> 8) >= round(p * 2**24))
    many = reference.dropout_mask(key, 0, (100_000,), p)
    assert abs(many.mean() - (1 - p)) < 0.006  # 4 standard deviations
    np.testing.assert_array_equal(many[:30].reshape(shape), reference.dropout_mask(key, 0, shape, p))
    assert (many != reference.dropout_mask(key, 1, (100_000,), p)).any()
    assert not reference.dropout_mask(key, 0, (100,), 1.0).any()
    assert reference.dropout_mask(key, 0, (100,), 0.0).all()


def test_dropout_scales_what_it_keeps_and_leaves_the_last_layer_alone() -> None:
    made = stack_arguments("rnn_tanh")
    plain = reference.stack_forward(**made)
    dropped = reference.stack_forward(**made, dropout=0.4, rng=99)
    first, second = (cell.h for cell in plain.saved.layers[0])
    kept = reference.dropout_mask(99, 0, (T, B, 2 * H), 0.4)
    want = np.where(kept, np.concatenate([first, second], -1) * (1 / (1 - 0.4)), 0)
    np.testing.assert_array_equal(dropped.saved.layers[1][0].x, want)
    assert dropped.y.all()
    assert not reference.stack_forward(**made, dropout=1.0, rng=99).saved.layers[1][0].x.any()


def test_dropout_key_comes_from_the_generator() -> None:
    made = stack_arguments("gru")
    key = int(np.random.default_rng(4).integers(2**64, dtype=np.uint64))
    for rng in (np.random.default_rng(4), key):
        assert reference.stack_forward(**made, dropout=0.5, rng=rng).saved.key == key
    fresh = {reference.stack_forward(**made, dropout=0.5).saved.key for _ in range(2)}
    assert len(fresh) == 2
    assert reference.stack_forward(**made).saved.key is None


# -- the house ---------------------------------------------------------------------------------------------


def test_every_public_reference_is_documented() -> None:
    for name in reference.__all__:
        documentation = inspect.getdoc(getattr(reference, name)) or ""
        assert len(documentation.splitlines()) > 5, name
