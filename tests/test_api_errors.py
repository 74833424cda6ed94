"""Bad input: refused with an error that names the argument, what was expected, what came; or computed right.

The texts are part of the contract, so they are compared whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import rnnkernels as rk
from rnnkernels import reference
from rnnkernels.testing import assert_within_budget
from rnnkernels.types import LSTMForward, LSTMGrads, LSTMSaved

T, B, I, H = 7, 3, 5, 4
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CELLS = sorted(GATES)
STATES = {"lstm": ("h0", "c0"), "gru": ("h0",), "rnn": ("h0",)}
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape), dtype=dtype)


def arguments(cell: str, dtype: Any = np.float32) -> dict[str, Any]:
    rows = GATES[cell] * H
    shapes = {"x": (T, B, I), "w_ih": (rows, I), "w_hh": (rows, H), "b_ih": (rows,), "b_hh": (rows,)}
    return {name: normal(*shape, dtype=dtype) for name, shape in shapes.items()} | {
        name: normal(B, H, dtype=dtype) for name in STATES[cell]
    }


def forward(cell: str, **changes: Any) -> Any:
    return getattr(rk, f"{cell}_forward")(**arguments(cell) | changes)


def backward(cell: str, saved: Any, dy: Any = None, **options: Any) -> Any:
    return getattr(rk, f"{cell}_backward")(dy, saved, **options)


def refuses(error: type[Exception], text: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert str(caught.value) == text
    assert type(caught.value) is error


class Tensor:
    """Another library's array: it could be converted, but nothing is converted in silence."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.zeros((T, B, I), np.float32)


# -- what an array must be -----------------------------------------------------------------------------------

EVERY = [(cell, name) for cell in CELLS for name in arguments(cell)]


@pytest.mark.parametrize(("cell", "name"), EVERY)
def test_not_an_array(cell: str, name: str) -> None:
    for value in ([[1.0]], (1.0,), 1.0, "abc", {}, Tensor()):
        kind = type(value).__name__
        text = f"{name}: expected a NumPy array, got {kind}"
        refuses(TypeError, text, forward, cell, **{name: value})
    if name in ("x", "w_ih", "w_hh"):
        refuses(TypeError, f"{name}: expected a NumPy array, got NoneType", forward, cell, **{name: None})


@pytest.mark.torch
def test_torch_tensors_are_named() -> None:
    import torch

    refuses(TypeError, "x: expected a NumPy array, got Tensor", forward, "lstm", x=torch.zeros(T, B, I))
    text = "lengths: expected a sequence of integers, got Tensor"
    refuses(TypeError, text, forward, "lstm", lengths=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(("cell", "name"), [pair for pair in EVERY if pair[1] != "x"])
@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "complex64", "int64", "object", "bool", "U4"])
def test_wrong_dtype(cell: str, name: str, dtype: str) -> None:
    bad = arguments(cell)[name].astype(dtype)
    refuses(TypeError, f"{name}: expected float32 like x, got {bad.dtype}", forward, cell, **{name: bad})


@pytest.mark.parametrize(
    "dtype", [">f2", ">f4", ">f8", "longdouble", "complex64", "object", "bool", "i2", ">i4"]
)
def test_wrong_dtype_of_x(dtype: str) -> None:
    if dtype == "longdouble" and np.dtype(dtype).itemsize == 8:
        pytest.skip("long double is double here")
    x = np.ones((T, B, I)).astype(dtype)
    text = f"x: expected float32, float64, bfloat16, float16, or token ids of int32 or int64, got {x.dtype}"
    refuses(TypeError, text, forward, "lstm", x=x)


def test_structured_dtype() -> None:
    x = np.zeros((T, B), [("a", "f4"), ("b", "i8")])
    text = f"x: expected float32, float64, bfloat16, float16, or token ids of int32 or int64, got {x.dtype}"
    refuses(TypeError, text, forward, "lstm", x=x)


def test_dtype_follows_w_ih_where_x_is_ids() -> None:
    ids = np.zeros((T, B), np.int64)
    text = "w_hh: expected float64 like w_ih, got float32"
    refuses(TypeError, text, forward, "rnn", x=ids, w_ih=normal(H, I, dtype=np.float64))
    text = "w_ih: expected float32, float64, bfloat16 or float16, got int64"
    refuses(TypeError, text, forward, "rnn", x=ids, w_ih=np.zeros((H, I), np.int64))


def test_masked_arrays_are_refused_other_subclasses_are_arrays() -> None:
    class Mine(np.ndarray):
        pass

    a = arguments("lstm")
    for name in a:
        text = f"{name}: expected a NumPy array without a mask, got MaskedArray"
        refuses(TypeError, text, rk.lstm_forward, **a | {name: np.ma.masked_array(a[name])})
    want = rk.lstm_forward(**a)
    mine = {name: value[::-1].view(Mine)[::-1] for name, value in a.items()}
    got = rk.lstm_forward(**mine)
    assert type(got.y) is np.ndarray
    np.testing.assert_array_equal(got.y, want.y)


# -- shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "name", "shape", "text"),
    [
        ("lstm", "x", (T, B), "x: expected (T, B, I), got (7, 3)"),
        ("lstm", "x", (), "x: expected (T, B, I), got ()"),
        ("lstm", "x", (2, T, B, I), "x: expected (T, B, I), got (2, 7, 3, 5)"),
        ("lstm", "w_ih", (16, 6), "w_ih: expected (4*H, I) = (16, 5), got (16, 6)"),
        ("lstm", "w_ih", (14, 5), "w_ih: expected (4*H, I) = (4*H, 5), got (14, 5)"),
        ("lstm", "w_ih", (16,), "w_ih: expected (4*H, I) = (4*H, 5), got (16,)"),
        ("gru", "w_ih", (12, 6), "w_ih: expected (3*H, I) = (12, 5), got (12, 6)"),
        ("rnn", "w_ih", (4, 6), "w_ih: expected (H, I) = (4, 5), got (4, 6)"),
        ("lstm", "w_hh", (16, 5), "w_hh: expected (4*H, H) = (16, 4), got (16, 5)"),
        ("gru", "w_hh", (12, 4, 1), "w_hh: expected (3*H, H) = (12, 4), got (12, 4, 1)"),
        ("rnn", "w_hh", (5, 4), "w_hh: expected (H, H) = (4, 4), got (5, 4)"),
        ("lstm", "b_ih", (17,), "b_ih: expected (4*H) = (16,), got (17,)"),
        ("lstm", "b_ih", (), "b_ih: expected (4*H) = (16,), got ()"),
        ("lstm", "b_ih", (2, 16), "b_ih: expected (B, 4*H) = (3, 16), got (2, 16)"),
        ("rnn", "b_ih", (3, 5), "b_ih: expected (B, H) = (3, 4), got (3, 5)"),
        ("gru", "b_hh", (3, 12), "b_hh: expected (3*H) = (12,), got (3, 12)"),
        ("lstm", "h0", (1, B, H), "h0: expected (B, H) = (3, 4), got (1, 3, 4)"),
        ("lstm", "c0", (B, 5), "c0: expected (B, H) = (3, 4), got (3, 5)"),
        ("rnn", "h0", (0, H), "h0: expected (B, H) = (3, 4), got (0, 4)"),
    ],
)
def test_wrong_shape(cell: str, name: str, shape: tuple[int, ...], text: str) -> None:
    refuses(ValueError, text, forward, cell, **{name: normal(*shape)})


@pytest.mark.parametrize("shape", [(), (T,), (T, B, I)])
def test_wrong_rank_of_ids(shape: tuple[int, ...]) -> None:
    text = f"x: expected token ids (T, B), got {shape}"
    refuses(ValueError, text, forward, "lstm", x=np.zeros(shape, np.int32))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dy", "dy: expected (T, B, H) = (7, 3, 4), got (7, 3, 5)"),
        ("dh_n", "dh_n: expected (B, H) = (3, 4), got (7, 3, 5)"),
        ("dc_n", "dc_n: expected (B, H) = (3, 4), got (7, 3, 5)"),
    ],
)
def test_gradients_of_results(name: str, text: str) -> None:
    saved = forward("lstm").saved
    refuses(ValueError, text, backward, "lstm", saved, **{name: normal(T, B, 5)})
    refuses(TypeError, f"{name}: expected a NumPy array, got list", backward, "lstm", saved, **{name: []})
    doubles = normal(T, B, H, dtype=np.float64)
    refuses(
        TypeError, f"{name}: expected float32 like x, got float64", backward, "lstm", saved, **{name: doubles}
    )


# -- lengths and ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([1, 2, 9], ValueError, "lengths: expected values in [0, T] = [0, 7], got 9 at index 2"),
        ((1, -1, 2), ValueError, "lengths: expected values in [0, T] = [0, 7], got -1 at index 1"),
        ([1, 2**70, 2], ValueError, f"lengths: expected values in [0, T] = [0, 7], got {2**70} at index 1"),
        (np.array([8, 0, 0]), ValueError, "lengths: expected values in [0, T] = [0, 7], got 8 at index 0"),
        (
            np.array([0, 2**64 - 1, 0], np.uint64),
            ValueError,
            f"lengths: expected values in [0, T] = [0, 7], got {2**64 - 1} at index 1",
        ),
        ([1, 2], ValueError, "lengths: expected (B) = (3,), got (2,)"),
        (np.ones((3, 1), int), ValueError, "lengths: expected (B) = (3,), got (3, 1)"),
        (np.array(3), ValueError, "lengths: expected (B) = (3,), got ()"),
        ([1, 2.0, 3], TypeError, "lengths: expected integers, got float at index 1"),
        ([1, True, 3], TypeError, "lengths: expected integers, got bool at index 1"),
        ([1, None, 3], TypeError, "lengths: expected integers, got NoneType at index 1"),
        ([[1], [2], [3]], TypeError, "lengths: expected integers, got list at index 0"),
        ("123", TypeError, "lengths: expected integers, got str at index 0"),
        (np.ones(3), TypeError, "lengths: expected integers, got float64"),
        (np.ones(3, bool), TypeError, "lengths: expected integers, got bool"),
        (np.array([1, 2, 3], object), TypeError, "lengths: expected integers, got object"),
        (
            np.ma.masked_array([1, 2, 3]),
            TypeError,
            "lengths: expected a NumPy array without a mask, got MaskedArray",
        ),
        ({1, 2, 3}, TypeError, "lengths: expected a sequence of integers, got set"),
        (7, TypeError, "lengths: expected a sequence of integers, got int"),
    ],
)
def test_bad_lengths(lengths: Any, error: type[Exception], text: str) -> None:
    refuses(error, text, forward, "lstm", lengths=lengths)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u4", "i4", "i8", "u8", ">i4", ">i8", "longlong", "intc"]
)
def test_lengths_of_any_integer_dtype(dtype: str) -> None:
    a = arguments("gru")
    want = rk.gru_forward(**a, lengths=[7, 0, 3])
    for lengths in (np.array([7, 0, 3], dtype), np.array([7, 9, 0, 9, 3, 9], dtype)[::2]):
        np.testing.assert_array_equal(rk.gru_forward(**a, lengths=lengths).y, want.y)
    np.testing.assert_array_equal(want.saved.lengths, [7, 0, 3])
    assert want.saved.lengths.dtype == np.int64


def test_lengths_of_any_sequence() -> None:
    a = arguments("gru")
    want = rk.gru_forward(**a, lengths=[2, 3, 4]).y
    for lengths in (range(2, 5), (2, np.int8(3), np.uint64(4))):
        np.testing.assert_array_equal(rk.gru_forward(**a, lengths=lengths).y, want)


def test_saved_lengths_are_a_copy() -> None:
    lengths = np.array([7, 2, 3])
    saved = forward("lstm", lengths=lengths).saved
    lengths[:] = 100
    np.testing.assert_array_equal(saved.lengths, [7, 2, 3])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("bad", [-1, I, 2**31 - 1])
def test_ids_out_of_range(dtype: Any, bad: int) -> None:
    ids = np.zeros((T, B), dtype)
    ids[3, 1] = bad
    text = f"x: expected token ids in [0, I) = [0, 5), got {bad} at (3, 1)"
    refuses(ValueError, text, forward, "lstm", x=ids)
    refuses(ValueError, text, forward, "lstm", x=np.asfortranarray(ids))
    assert np.isfinite(forward("lstm", x=ids, lengths=[7, 3, 7]).y).all()  # in padding anything may stand


def test_no_id_is_in_an_empty_table() -> None:
    a = arguments("rnn") | {"x": np.zeros((T, B), np.int32), "w_ih": normal(H, 0)}
    text = "x: expected token ids in [0, I) = [0, 0), got 0 at (0, 0)"
    refuses(ValueError, text, rk.rnn_forward, **a)
    np.testing.assert_array_equal(rk.rnn_forward(**a, lengths=[0, 0, 0]).h_n, a["h0"])


# -- layouts -------------------------------------------------------------------------------------------------


def unaligned(a: np.ndarray) -> np.ndarray:
    bytes_ = np.zeros(a.nbytes + 1, np.uint8)
    view = bytes_[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a: np.ndarray) -> np.ndarray:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def every_second(a: np.ndarray) -> np.ndarray:
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 77, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


LAYOUTS = {
    "strided": every_second,
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "fortran": np.asfortranarray,
    "unaligned": unaligned,
    "read-only": read_only,
}


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_any_layout_gives_the_same_bits_and_is_left_alone(cell: str, layout: str, ids: bool) -> None:
    a = arguments(cell) | {"b_ih": normal(B, GATES[cell] * H)}
    if ids:
        a["x"] = rng.integers(I, size=(T, B)).astype(np.int32)
    dy = normal(T, B, H)
    want = getattr(rk, f"{cell}_forward")(**a, lengths=[7, 0, 4])
    want_grads = backward(cell, want.saved, dy)
    laid = {name: LAYOUTS[layout](value) for name, value in a.items()}
    got = getattr(rk, f"{cell}_forward")(**laid, lengths=[7, 0, 4])
    laid_saved = replace(
        got.saved,
        **{
            f.name: LAYOUTS[layout](getattr(got.saved, f.name))
            for f in fields(got.saved)
            if f.name in ("gates", "c", "h")
        },
    )
    grads = backward(cell, laid_saved, LAYOUTS[layout](dy))
    for mine, its in zip((*got[:-1], *grads), (*want[:-1], *want_grads), strict=True):
        np.testing.assert_array_equal(mine, its)
    for name, value in laid.items():
        np.testing.assert_array_equal(value, a[name])
        assert getattr(got.saved, name) is value  # borrowed as it came


def test_broadcast_inputs() -> None:
    a = arguments("lstm")
    a["x"] = np.broadcast_to(normal(1, B, 1), (T, B, I))
    a["h0"] = np.broadcast_to(np.float32(0.5), (B, H))
    want = rk.lstm_forward(**{name: np.ascontiguousarray(value) for name, value in a.items()})
    np.testing.assert_array_equal(rk.lstm_forward(**a).y, want.y)


@pytest.mark.parametrize("cell", CELLS)
def test_results_are_fresh_memory(cell: str) -> None:
    a = arguments(cell) | {"h0": normal(B, H)}
    result = getattr(rk, f"{cell}_forward")(**a)
    grads = backward(cell, result.saved, normal(T, B, H), dh_n=normal(B, H))
    owned = [getattr(result.saved, name) for name in ("gates", "c", "h") if hasattr(result.saved, name)]
    arrays = [*a.values(), *result[:-1], *owned, *(g for g in grads if g is not None)]
    for i, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[:i])


def test_inputs_survive_and_references_balance() -> None:
    a = arguments("lstm") | {"lengths": np.array([7, 1, 2])}
    before = {name: value.copy() for name, value in a.items()}
    counts = {name: sys.getrefcount(value) for name, value in a.items()}
    dy = normal(T, B, H)
    for _ in range(3):
        rk.lstm_backward(dy, rk.lstm_forward(**a).saved)
        with pytest.raises(ValueError, match="w_hh"):
            rk.lstm_forward(**a | {"w_hh": a["w_ih"]})
        with pytest.raises(TypeError, match="c0"):
            rk.lstm_forward(**a | {"c0": []})
    for name, value in a.items():
        np.testing.assert_array_equal(value, before[name])
        assert sys.getrefcount(value) == counts[name], name


# -- sizes ---------------------------------------------------------------------------------------------------


def huge(*shape: int) -> np.ndarray:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def test_products_of_sizes_that_do_not_fit() -> None:
    a = {"x": huge(2**50, 1, 1), "w_ih": huge(4 * 2**20, 1), "w_hh": huge(4 * 2**20, 2**20)}
    with pytest.raises((ValueError, MemoryError)):
        rk.lstm_forward(**a)
    ids = np.broadcast_to(np.int64(0), (2**40, 2**18))
    with pytest.raises((ValueError, MemoryError)):
        rk.lstm_forward(ids, normal(4 * H, I), normal(4 * H, H))
    x = np.broadcast_to(np.float32(0), (2**30, 2**30, 0))
    text = "sizes: an array (T, B, 8*D*H) = (1073741824, 1073741824, 32) has 2**63 bytes or more"
    refuses(ValueError, text, rk.lstm_forward, x, normal(4 * H, 0), normal(4 * H, H))


def test_memory_that_is_not_there() -> None:
    x = np.broadcast_to(np.float32(0), (2**26, 2**16, 0))
    with pytest.raises(MemoryError):
        rk.rnn_forward(x, normal(16, 0), normal(16, 16), save=False)
    with pytest.raises(MemoryError):
        rk.linear_forward(x, normal(16, 0))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "sizes", [(0, B, I, H), (T, 0, I, H), (T, B, 0, H), (T, B, I, 0), (0, 0, 0, 0), (0, B, I, 0)]
)
@pytest.mark.parametrize("bias", ["vector", "sequence"])
def test_sizes_of_zero(cell: str, sizes: tuple[int, int, int, int], bias: str) -> None:
    t, b, i, h = sizes
    rows = GATES[cell] * h
    b_ih = normal(b, rows) if bias == "sequence" else normal(rows)
    a = {
        "x": normal(t, b, i),
        "w_ih": normal(rows, i),
        "w_hh": normal(rows, h),
        "b_ih": b_ih,
        "b_hh": normal(rows),
    }
    a |= {name: normal(b, h) for name in STATES[cell]}
    got, want = (getattr(ops, f"{cell}_forward")(**a) for ops in (rk, reference))
    cotangents = [normal(t, b, h), *(normal(b, h) for _ in STATES[cell])]
    grads, want_grads = (
        getattr(ops, f"{cell}_backward")(cotangents[0], result.saved, *cotangents[1:])
        for ops, result in ((rk, got), (reference, want))
    )
    for mine, its in zip((*got[:-1], *grads), (*want[:-1], *want_grads), strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            assert_within_budget(mine, its, "gradient")


def test_accumulating_nothing_changes_nothing() -> None:
    a = arguments("lstm") | {"x": normal(0, B, I)}
    saved = rk.lstm_forward(**a).saved
    dh = normal(B, H)
    start = {"dw_ih": normal(4 * H, I), "dh0": normal(B, H)}
    out = {name: value.copy() for name, value in start.items()}
    grads = rk.lstm_backward(None, saved, dh, out=out, accumulate=True)
    np.testing.assert_array_equal(grads.dw_ih, start["dw_ih"])
    np.testing.assert_array_equal(grads.dh0, start["dh0"] + dh)
    np.testing.assert_array_equal(grads.dw_hh, np.zeros((4 * H, H)))


# -- saved ---------------------------------------------------------------------------------------------------


def test_saved_of_another_operation() -> None:
    saved = {cell: forward(cell).saved for cell in CELLS}
    names = {cell: type(value).__name__ for cell, value in saved.items()}
    for cell in CELLS:
        for other in CELLS:
            if cell != other:
                text = f"saved: expected {names[cell]}, got {names[other]}"
                refuses(TypeError, text, backward, cell, saved[other])
    refuses(
        TypeError,
        "saved: expected LSTMSaved, got NoneType",
        backward,
        "lstm",
        forward("lstm", save=False).saved,
    )
    refuses(
        TypeError, "saved: expected LinearSaved, got LSTMSaved", rk.linear_backward, normal(1), saved["lstm"]
    )


@pytest.mark.parametrize(
    ("field", "value", "error", "text"),
    [
        ("gates", normal(T, B, 5 * H), ValueError, "(T, B, 4*H) = (7, 3, 16), got (7, 3, 20)"),
        ("gates", None, TypeError, "a NumPy array, got NoneType"),
        ("c", normal(T, B, H + 1), ValueError, "(T, B, H) = (7, 3, 4), got (7, 3, 5)"),
        ("h", normal(T - 1, B, H), ValueError, "(T, B, H) = (7, 3, 4), got (6, 3, 4)"),
        ("h", normal(T, B, H, dtype=np.float64), TypeError, "float32 like x, got float64"),
        ("h0", normal(B, 2), ValueError, "(B, H) = (3, 4), got (3, 2)"),
        ("c0", [1], TypeError, "a NumPy array, got list"),
        ("x", [1], TypeError, "a NumPy array, got list"),
        ("w_hh", normal(2, 2), ValueError, "(4*H, H) = (16, 4), got (2, 2)"),
        ("w_ih", normal(16, 2), ValueError, "(4*H, I) = (16, 5), got (16, 2)"),
        ("b_ih", normal(2, 16), ValueError, "(B, 4*H) = (3, 16), got (2, 16)"),
        ("b_hh", normal(3), ValueError, "(4*H) = (16,), got (3,)"),
        ("lengths", [1, 2], ValueError, "(B) = (3,), got (2,)"),
        ("lengths", [1, 2, 100], ValueError, "values in [0, T] = [0, 7], got 100 at index 2"),
        ("reverse", "no", TypeError, "a bool, got str"),
    ],
)
def test_saved_made_by_hand(field: str, value: Any, error: type[Exception], text: str) -> None:
    saved = replace(forward("lstm").saved, **{field: value})
    refuses(error, f"saved.{field}: expected {text}", backward, "lstm", saved)


def test_saved_ids_are_checked_again() -> None:
    ids = np.zeros((T, B), np.int64)
    saved = forward("lstm", x=ids).saved
    ids[6, 2] = 5
    text = "saved.x: expected token ids in [0, I) = [0, 5), got 5 at (6, 2)"
    refuses(ValueError, text, backward, "lstm", saved)


def test_saved_options_made_by_hand() -> None:
    saved = forward("gru").saved
    text = "saved.gates: expected (T, B, 3*H) = (7, 3, 12), got (7, 3, 16)"
    refuses(ValueError, text, backward, "gru", replace(saved, reset_after=False))
    text = "saved.reset_after: expected True or False, got 'yes'"
    refuses(ValueError, text, backward, "gru", replace(saved, reset_after="yes"))
    text = "saved.nonlinearity: expected 'tanh' or 'relu', got None"
    refuses(ValueError, text, backward, "rnn", replace(forward("rnn").saved, nonlinearity=None))


# -- options -------------------------------------------------------------------------------------------------


def test_options_of_the_wrong_type() -> None:
    refuses(TypeError, "reverse: expected a bool, got int", forward, "lstm", reverse=1)
    refuses(TypeError, "save: expected a bool, got str", forward, "lstm", save="yes")
    saved = forward("lstm").saved
    refuses(TypeError, "accumulate: expected a bool, got NoneType", backward, "lstm", saved, accumulate=None)
    text = "reset_after: expected True or False, got 'after'"
    refuses(ValueError, text, forward, "gru", reset_after="after")
    text = "nonlinearity: expected 'tanh' or 'relu', got 'sigmoid'"
    refuses(ValueError, text, forward, "rnn", nonlinearity="sigmoid")
    refuses(ValueError, text.replace("'sigmoid'", "['tanh']"), forward, "rnn", nonlinearity=["tanh"])
    assert forward("lstm", reverse=np.True_).saved.reverse is True


def test_needs() -> None:
    saved = forward("lstm").saved
    dy = normal(T, B, H)
    everything = rk.lstm_backward(dy, saved)
    for name in LSTMGrads._fields:
        grads = rk.lstm_backward(dy, saved, needs={name})
        for field in LSTMGrads._fields:
            if field == name and getattr(everything, name) is not None:
                np.testing.assert_array_equal(getattr(grads, field), getattr(everything, field))
            else:
                assert getattr(grads, field) is None
    assert rk.lstm_backward(dy, saved, needs=[]) == LSTMGrads()
    text = f"needs: expected names among {', '.join(LSTMGrads._fields)}, got 'dW'"
    refuses(ValueError, text, rk.lstm_backward, dy, saved, needs={"dW"})
    refuses(TypeError, "needs: expected a set of names, got str", rk.lstm_backward, dy, saved, needs="dx")
    refuses(TypeError, "needs: expected a set of names, got int", rk.lstm_backward, dy, saved, needs=3)


# -- out -----------------------------------------------------------------------------------------------------


def test_out_that_cannot_be_written() -> None:
    a = arguments("lstm")
    own = "memory that nothing else of the call uses"
    overlapping_itself = np.lib.stride_tricks.as_strided(normal(B, H), (T, B, H), (0, 4 * H, 4))
    with_y = np.zeros((T + 1, B, H), np.float32)
    for out, error, text in [
        ({"y": normal(T, B, 5)}, ValueError, "out['y']: expected (T, B, H) = (7, 3, 4), got (7, 3, 5)"),
        ({"h_n": normal(T, B, H)}, ValueError, "out['h_n']: expected (B, H) = (3, 4), got (7, 3, 4)"),
        ({"c_n": normal(B, H, dtype="f8")}, TypeError, "out['c_n']: expected float32 like x, got float64"),
        ({"y": [1]}, TypeError, "out['y']: expected a NumPy array, got list"),
        (
            {"y": read_only(normal(T, B, H))},
            ValueError,
            "out['y']: expected a writeable array, got a read-only one",
        ),
        ({"h_n": a["h0"]}, ValueError, f"out['h_n']: expected {own}, got an array that overlaps h0"),
        ({"c_n": a["w_hh"][:B]}, ValueError, f"out['c_n']: expected {own}, got an array that overlaps w_hh"),
        (
            {"y": overlapping_itself},
            ValueError,
            f"out['y']: expected {own}, got an array that overlaps itself",
        ),
        (
            {"y": with_y[1:], "h_n": with_y[1]},
            ValueError,
            f"out['h_n']: expected {own}, got an array that overlaps out['y']",
        ),
        ({"z": with_y}, ValueError, "out: expected names among y, h_n, c_n, saved, got 'z'"),
        ([with_y], TypeError, "out: expected a mapping or LSTMForward, got list"),
    ]:
        refuses(error, text, rk.lstm_forward, **a, out=out)
    assert not with_y.any()


def test_out_overlapping_what_backward_reads() -> None:
    a = arguments("lstm")
    saved = rk.lstm_forward(**a).saved
    dy = normal(T, B, H)
    own = "memory that nothing else of the call uses"
    text = f"out['dw_ih']: expected {own}, got an array that overlaps saved.w_ih"
    refuses(ValueError, text, rk.lstm_backward, dy, saved, out={"dw_ih": a["w_ih"]})
    text = f"out['dh0']: expected {own}, got an array that overlaps dy"
    refuses(ValueError, text, rk.lstm_backward, dy, saved, out={"dh0": dy[2]})
    text = f"out['dc0']: expected {own}, got an array that overlaps saved.gates"
    refuses(ValueError, text, rk.lstm_backward, dy, saved, out={"dc0": saved.gates[0, :, ::4]})


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"read-only"}))
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_out_of_any_layout(layout: str, ids: bool, accumulate: bool) -> None:
    a = arguments("lstm")
    if ids:
        a["x"] = rng.integers(I, size=(T, B))
    want = rk.lstm_forward(**a)
    out = {name: LAYOUTS[layout](normal(*getattr(want, name).shape)) for name in ("y", "h_n", "c_n")}
    got = rk.lstm_forward(**a, out=out)
    for name, array in out.items():
        assert getattr(got, name) is array
        np.testing.assert_array_equal(array, getattr(want, name))

    dy = normal(T, B, H)
    want_grads = rk.lstm_backward(dy, want.saved)
    start = {name: g * 2 for name, g in want_grads._asdict().items() if g is not None and name != "db_hh"}
    given = {name: LAYOUTS[layout](value.copy()) for name, value in start.items()}
    grads = rk.lstm_backward(dy, want.saved, out=given, accumulate=accumulate)
    for name, gradient in want_grads._asdict().items():
        if gradient is not None:
            expected = gradient + start.get(name, 0) if accumulate else gradient
            np.testing.assert_allclose(getattr(grads, name), expected, rtol=1e-5, atol=1e-5)
        assert name not in given or getattr(grads, name) is given[name]


def test_an_earlier_result_is_reused() -> None:
    a = arguments("lstm")
    first = rk.lstm_forward(**a)
    again = rk.lstm_forward(**a | {"h0": None, "c0": None}, out=first)
    assert isinstance(again, LSTMForward)
    assert again.y is first.y
    assert again.saved is not first.saved
    grads = rk.lstm_backward(again.y.copy(), again.saved)
    twice = rk.lstm_backward(again.y.copy(), again.saved, out=grads, accumulate=True)
    assert all(one is two for one, two in zip(grads, twice, strict=True))


def test_neighbours_in_one_array_may_be_out() -> None:
    both = np.zeros((T, B, 2 * H), np.float32)
    left, right = (
        forward("lstm", out={"y": both[..., :H]}),
        forward("lstm", reverse=True, out={"y": both[..., H:]}),
    )
    np.testing.assert_array_equal(both, np.concatenate([left.saved.h, right.saved.h], axis=-1))
    flat = np.zeros(B * 2 * H, np.float32).reshape(B, 2 * H)
    got = forward("lstm", out={"h_n": flat[:, ::2], "c_n": flat[:, 1::2]})
    np.testing.assert_array_equal(got.h_n, got.saved.h[-1])


# -- stacks and packs ----------------------------------------------------------------------------------------


def params(kind: str = "lstm", layers: int = 2, directions: int = 2) -> list[list[tuple[Any, ...]]]:
    rows = {"lstm": 4, "gru": 3}.get(kind, 1) * H
    return [
        [
            (normal(rows, directions * H if layer else I), normal(rows, H), normal(rows), None)
            for _ in range(directions)
        ]
        for layer in range(layers)
    ]


KINDS = "lstm, gru, gru_reset_before, rnn_tanh, rnn_relu"


def test_stack_arguments() -> None:
    x = normal(T, B, I)
    good = params()
    for bad, error, text in [
        ("lstm", TypeError, "params: expected a tuple or list of layers, got str"),
        ([], ValueError, "params: expected one or more layers of 1 or 2 directions each, got none"),
        ([[]], ValueError, "params: expected one or more layers of 1 or 2 directions each, got [0]"),
        (
            [good[0], good[1][:1]],
            ValueError,
            "params: expected one or more layers of 1 or 2 directions each, got [2, 1]",
        ),
        ([good[0] * 2], ValueError, "params: expected one or more layers of 1 or 2 directions each, got [4]"),
        ([3], TypeError, "params: expected a tuple or list of directions in each layer, got int"),
        ([[good[0][0][:3]]], ValueError, "params[0][0]: expected (w_ih, w_hh, b_ih, b_hh), got 3 items"),
        ([["four"]], TypeError, "params[0][0]: expected a tuple (w_ih, w_hh, b_ih, b_hh), got str"),
        ([good[0], good[0]], ValueError, "params[1][0].w_ih: expected (4*H, D*H) = (16, 8), got (16, 5)"),
        (
            [good[0], [good[1][0], (*good[1][1][:2], normal(3), None)]],
            ValueError,
            "params[1][1].b_ih: expected (4*H) = (16,), got (3,)",
        ),
    ]:
        refuses(error, text, rk.stack_forward, "lstm", x, bad)
    refuses(ValueError, f"kind: expected one of {KINDS}, got 'LSTM'", rk.stack_forward, "LSTM", x, good)
    refuses(ValueError, f"kind: expected one of {KINDS}, got None", rk.stack_forward, None, x, good)
    refuses(
        ValueError,
        f"kind: expected one of {KINDS}, got array([1, 2])",
        rk.stack_forward,
        np.array([1, 2]),
        x,
        good,
    )


def test_stack_states() -> None:
    x, h = normal(T, B, I), normal(4, B, H)
    for hx, error, text in [
        (h, TypeError, "hx: expected a pair (h, c), got ndarray"),
        ((h, h, h), ValueError, "hx: expected a pair (h, c), got 3 items"),
        ((h, normal(3, B, H)), ValueError, "hx[1]: expected (L*D, B, H) = (4, 3, 4), got (3, 3, 4)"),
        ((h[0], h), ValueError, "hx[0]: expected (L*D, B, H) = (4, 3, 4), got (3, 4)"),
    ]:
        refuses(error, text, rk.stack_forward, "lstm", x, params(), hx)
        saved = rk.stack_forward("lstm", x, params()).saved
        refuses(error, "d" + text, rk.stack_backward, None, saved, hx)
    refuses(
        TypeError, "hx: expected a NumPy array, got tuple", rk.stack_forward, "gru", x, params("gru"), (h, h)
    )


def test_dropout_arguments() -> None:
    call = lambda **options: rk.stack_forward("lstm", normal(T, B, I), params(), **options)  # noqa: E731
    refuses(ValueError, "dropout: expected a rate in [0, 1], got 1.5", call, dropout=1.5)
    refuses(ValueError, "dropout: expected a rate in [0, 1], got nan", call, dropout=float("nan"))
    refuses(TypeError, "dropout: expected a number, got str", call, dropout="half")
    refuses(ValueError, "rng: expected a key in [0, 2**64), got -1", call, dropout=0.5, rng=-1)
    refuses(
        TypeError, "rng: expected a NumPy Generator or an integer key, got float", call, dropout=0.5, rng=1.0
    )
    assert call(dropout=0.5, rng=2**64 - 1).saved.key == 2**64 - 1
    assert call(dropout=np.float32(0.5)).saved.key is not None
    assert call(rng=7).saved.key is None


def test_saved_stack_made_by_hand() -> None:
    saved = rk.stack_forward("lstm", normal(T, B, I), params(), lengths=[7, 2, 3]).saved
    (a, b), (c, d) = saved.layers

    def layers(*rows: tuple[LSTMSaved, ...]) -> Any:
        return replace(saved, layers=rows)

    for bad, error, text in [
        (
            layers((a, b), (c,)),
            ValueError,
            "saved.layers: expected one or more layers of 1 or 2 directions each, got [2, 1]",
        ),
        (
            layers((a, replace(b, reverse=False)), (c, d)),
            ValueError,
            "saved.layers[0][1].reverse: expected True, got False",
        ),
        (
            layers((a, b), (c, replace(d, x=d.x.copy()))),
            ValueError,
            "saved.layers[1][1].x: expected the array that the layer's first direction has, got another",
        ),
        (
            layers((a, b), (replace(c, x=normal(T, B, 3)), d)),
            ValueError,
            "saved.layers[1][0].x: expected (T, B, D*H) = (7, 3, 8), got (7, 3, 3)",
        ),
        (
            layers((a, b), (replace(c, lengths=None), d)),
            ValueError,
            "saved.layers[1][0].lengths: expected the lengths of the first layer, got others",
        ),
        (
            layers((a, b), (c, replace(d, h=d.h[1:]))),
            ValueError,
            "saved.layers[1][1].h: expected (T, B, H) = (7, 3, 4), got (6, 3, 4)",
        ),
        (
            layers((a, forward("gru").saved)),
            TypeError,
            "saved.layers[0][1]: expected LSTMSaved, got GRUSaved",
        ),
        (a, TypeError, "saved: expected StackSaved, got LSTMSaved"),
        (replace(saved, dropout=2.0, key=1), ValueError, "dropout: expected a rate in [0, 1], got 2.0"),
    ]:
        refuses(error, text, rk.stack_backward, None, bad)
    gru = rk.stack_forward("gru", normal(T, B, I), params("gru")).saved
    text = "saved.layers[0][0]: expected the cell gru_reset_before, got gru"
    refuses(ValueError, text, rk.stack_backward, None, replace(gru, kind="gru_reset_before"))
    refuses(
        ValueError,
        "needs: expected names among dx, dhx, params, got 'dy'",
        rk.stack_backward,
        None,
        gru,
        needs=["dy"],
    )


def test_pack_arguments() -> None:
    with_sequences = [[(normal(4 * H, I), normal(4 * H, H), normal(B, 4 * H), None)]]
    text = "params[0][0].b_ih: expected (4*H) = (16,), got (3, 16)"
    refuses(ValueError, text, rk.pack, "lstm", with_sequences)
    refuses(ValueError, f"kind: expected one of {KINDS}, got 'rnn'", rk.pack, "rnn", params())
    packed = rk.pack("lstm", params(directions=1))
    h = normal(2, B, H)
    for x, hx, error, text in [
        (
            normal(B, I, dtype="f8"),
            None,
            TypeError,
            "x: expected float32 like the packed weights, got float64",
        ),
        (normal(T, B, I), None, ValueError, "x: expected (B, I) = (B, 5), got (7, 3, 5)"),
        (normal(B, 4), None, ValueError, "x: expected (B, I) = (B, 5), got (3, 4)"),
        (np.array([0, 5]), None, ValueError, "x: expected token ids in [0, I) = [0, 5), got 5 at (1,)"),
        (np.zeros((1, B), int), None, ValueError, "x: expected token ids (B), got (1, 3)"),
        (normal(B, I), h, TypeError, "hx: expected a pair (h, c), got ndarray"),
        (normal(B, I), (h, h[:1]), ValueError, "hx[1]: expected (L*D, B, H) = (2, 3, 4), got (1, 3, 4)"),
    ]:
        refuses(error, text, packed.step, x, hx)
    refuses(ValueError, "x: expected (T, B, I) = (T, B, 5), got (3, 5)", packed.forward, normal(B, I))
    both = rk.pack("lstm", params(directions=2))
    refuses(ValueError, "step: expected a pack of 1 direction, got one of 2", both.step, normal(B, I))


# -- heads ---------------------------------------------------------------------------------------------------


def test_linear_arguments() -> None:
    x, w, b = normal(T, B, I), normal(6, I), normal(6)
    call = rk.linear_forward
    refuses(ValueError, "w: expected (O, I) = (O, 5), got (6, 4)", call, x, normal(6, 4))
    refuses(ValueError, "b: expected (O) = (6,), got (5,)", call, x, w, normal(5))
    refuses(ValueError, "x: expected (..., I), got ()", call, normal(), w)
    refuses(
        TypeError,
        "x: expected float32, float64, bfloat16 or float16, got int64",
        call,
        np.zeros((3, I), np.int64),
        w,
    )
    refuses(TypeError, "w: expected float32 like x, got float64", call, x, w.astype(np.float64))
    refuses(TypeError, "x: expected a NumPy array, got list", call, [1.0], w)
    saved = call(x, w, b).saved
    back = rk.linear_backward
    refuses(ValueError, "dy: expected (..., O) = (7, 3, 6), got (7, 3, 5)", back, x, saved)
    refuses(TypeError, "dy: expected a NumPy array, got NoneType", back, None, saved)
    refuses(
        TypeError,
        "saved.has_bias: expected a bool, got NoneType",
        back,
        normal(T, B, 6),
        replace(saved, has_bias=None),
    )
    text = "out['dw']: expected (O, I) = (6, 5), got (5, 6)"
    refuses(ValueError, text, back, normal(T, B, 6), saved, out={"dw": normal(5, 6)})


def test_cross_entropy_arguments() -> None:
    logits, targets = normal(T, B, I), np.zeros((T, B), np.int64)
    bad = targets.copy()
    bad[3, 1] = 5
    h, w = normal(T, B, H), normal(I, H)
    fused = lambda _, targets, **options: rk.linear_cross_entropy_forward(h, w, None, targets, **options)  # noqa: E731
    for call in (rk.softmax_cross_entropy_forward, fused):
        text = "targets: expected classes in [0, V) = [0, 5) or ignore_index = -100, got 5 at (3, 1)"
        refuses(ValueError, text, call, logits, bad)
        refuses(ValueError, "targets: expected (...) = (7, 3), got (7,)", call, logits, targets[:, 0])
        refuses(TypeError, "targets: expected int32 or int64, got float64", call, logits, targets * 1.0)
        refuses(TypeError, "targets: expected a NumPy array, got list", call, logits, [1, 2])
        text = "reduction: expected 'mean', 'sum' or 'none', got 'avg'"
        refuses(ValueError, text, call, logits, targets, reduction="avg")
        refuses(
            TypeError, "ignore_index: expected an integer, got float", call, logits, targets, ignore_index=0.5
        )
        text = f"ignore_index: expected an integer of 64 bits, got {2**63}"
        refuses(ValueError, text, call, logits, targets, ignore_index=2**63)
        assert np.isfinite(call(logits, bad.astype(np.int32), ignore_index=5).loss)
    refuses(
        ValueError, "logits: expected (..., V), got ()", rk.softmax_cross_entropy_forward, normal(), targets
    )
    saved = rk.softmax_cross_entropy_forward(logits, targets).saved
    back = rk.softmax_cross_entropy_backward
    refuses(ValueError, "dloss: expected () = (), got (1,)", back, normal(1), saved)
    refuses(TypeError, "dloss: expected None, a number or a NumPy array, got str", back, "1", saved)
    refuses(TypeError, "dloss: expected float32 like logits, got float64", back, np.ones(()), saved)
    refuses(
        ValueError,
        "saved.lse: expected (...) = (7, 3), got (3, 7)",
        back,
        None,
        replace(saved, lse=normal(B, T)),
    )
    text = "saved.targets: expected classes in [0, V) = [0, 5) or ignore_index = -100, got 5 at (3, 1)"
    refuses(ValueError, text, back, None, replace(saved, targets=bad))
    none = rk.softmax_cross_entropy_forward(logits, targets, reduction="none").saved
    refuses(ValueError, "dloss: expected (...) = (7, 3), got ()", back, np.ones((), np.float32), none)
