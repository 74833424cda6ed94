"""Packs with int8 weights: against their twin in NumPy, against float, and bit for bit.

The one subtlety: a state that is off by a rounding error may be rounded to the neighbouring integer, which
is a difference a thousand times as large.  So single steps from the same state are compared closely, whole
sequences bit for bit with the kernel's own steps, and loosely with the twin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnkernels as rk
from kernelcases import ISAS, KINDS, VECTOR_ISAS
from rnnkernels import reference
from rnnkernels.testing import CELL_KINDS, as_float64, assert_within_budget, relative_error
from rnnkernels.types import Array
from test_stack_kernels import Stack, arrays_of, bits_of

each_kind = pytest.mark.parametrize("kind", KINDS)
each_isa = pytest.mark.parametrize("isa", ISAS)

# Of whole sequences: as far as roundings to a neighbour lead, and what 8 bits may cost (docs/accuracy.md).
NEIGHBOURS, EIGHT_BITS = 0.01, 0.03

SIZES = [
    (1, 1, 1),
    (2, 1, 7),
    (3, 7, 1),
    (1, 16, 33),
    (5, 33, 7),
    (13, 9, 8),
    (7, 40, 65),
    (2, 301, 120),
    (1, 20, 200),
]


def forward(kind: str, a: dict[str, Any], weight_dtype: str | None = "int8") -> Any:
    return rk.pack(kind, a["params"], weight_dtype).forward(a["x"], a["hx"], lengths=a["lengths"])


def twin(kind: str, a: dict[str, Any]) -> Any:
    a = as_float64(a)
    return reference.int8_stack(kind, a["x"], a["params"], a["hx"], lengths=a["lengths"])[:2]


def only(kind: str, a: dict[str, Any], b: Any) -> dict[str, Any]:
    """The problem with some of its sequences."""
    hx = tuple(s[:, b] for s in a["hx"]) if kind == "lstm" else a["hx"][:, b]
    return a | {"x": a["x"][:, b], "hx": hx, "lengths": None if a["lengths"] is None else a["lengths"][b]}


# -- against the twin --------------------------------------------------------------------------------------


@each_kind
@each_isa
@pytest.mark.parametrize(("B", "I", "H"), SIZES)
@pytest.mark.parametrize("ids", [False, True])
def test_a_step_is_the_twin_s(kind: str, isa: str, B: int, I: int, H: int, ids: bool) -> None:
    a = Stack(1, B, I, H, layers=1, directions=1, ids=ids).arguments(kind, "float32")
    a["hx"] = (3 * a["hx"][0], a["hx"][1]) if kind == "lstm" else 3 * a["hx"]  # nothing holds |h0| to 1
    with rk.config(isa=isa):
        pack = rk.pack(kind, a["params"], "int8")
        y, hx = pack.step(a["x"][0], a["hx"])
        assert bits_of((y[None], hx)) == bits_of(pack.forward(a["x"], a["hx"]))
    want = twin(kind, a)
    for got, true in zip(arrays_of((y[None], hx)), arrays_of(want), strict=True):
        assert got.dtype == np.float32
        assert_within_budget(got, true, "forward")


STACKS = [
    Stack(20, 1, 7, 33, layers=1, directions=1),
    Stack(9, 5, 9, 17, layers=3, directions=1, ids=True),
    Stack(30, 7, 3, 9, ragged=True),
    Stack(70, 13, 40, 65, ragged=True, ids=True),
    Stack(6, 70, 33, 40, state=False),
]


@each_kind
@each_isa
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_stacks_follow_the_twin(kind: str, isa: str, stack: Stack) -> None:
    a = stack.arguments(kind, "float32")
    with rk.config(isa=isa):
        got = forward(kind, a)
    for result, want in zip(arrays_of(got), arrays_of(twin(kind, a)), strict=True):
        assert relative_error(result, want) < NEIGHBOURS


@each_kind
@each_isa
def test_a_sequence_is_its_steps(kind: str, isa: str) -> None:
    """To the bit, across layers and the borders of the chunks in which x is projected."""
    a = Stack(150, 2, 5, 19, layers=2, directions=1).arguments(kind, "float32")
    with rk.config(isa=isa):
        pack = rk.pack(kind, a["params"], "int8")
        y, last = pack.forward(a["x"], a["hx"])
        state = a["hx"]
        for x_t, y_t in zip(a["x"], y, strict=True):
            stepped, state = pack.step(x_t, state)
            assert stepped.tobytes() == y_t.tobytes()
        assert bits_of((state,)) == bits_of((last,))


@each_kind
def test_reverse_is_the_reversed_sequence(kind: str) -> None:
    a = Stack(9, 3, 5, 19, layers=1).arguments(kind, "float32")
    y, _ = forward(kind, a)
    first = tuple(s[1:] for s in a["hx"]) if kind == "lstm" else a["hx"][1:]
    backwards, _ = rk.pack(kind, [[a["params"][0][1]]], "int8").forward(a["x"][::-1].copy(), first)
    np.testing.assert_array_equal(y[..., 19:], backwards[::-1])


# -- against float -----------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("H", [16, 128])
def test_what_eight_bits_cost(kind: str, H: int) -> None:
    """Two layers of PyTorch's default weights in both directions, against float32."""
    a = Stack(60, 4, H, H).arguments(kind, "float32")
    got, want = (arrays_of(forward(kind, a, weight_dtype)) for weight_dtype in ("int8", None))
    for result, exact in zip(got, want, strict=True):
        assert 0 < relative_error(result, exact) < EIGHT_BITS


def test_what_int8_holds_is_exact() -> None:
    """Integers up to 127, one of each row 127, need no rounding."""
    rng = np.random.default_rng(0)
    T, B, I, H = 1, 3, 31, 18

    def integers(*shape: int) -> Array:
        a = rng.integers(-127, 128, shape)
        a[..., 0] = 127
        return a.astype(np.float32)

    params = [[(integers(H, I), integers(H, H), None, None)]]
    x, h0 = integers(T, B, I), integers(1, B, H)
    y, _ = rk.pack("rnn_relu", params, "int8").forward(x, h0)
    np.testing.assert_array_equal(y, np.maximum(x @ params[0][0][0].T + h0 @ params[0][0][1].T, 0))


def test_the_largest_sum_does_not_overflow() -> None:
    K = 133144
    x, w = np.full((1, 1, K), 127, np.float32), np.full((1, K), 127, np.float32)
    y, _ = rk.pack("rnn_relu", [[(w, np.zeros((1, 1), np.float32), None, None)]], "int8").forward(x)
    assert y == np.float32(127 * 127 * K)


# -- bits --------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("stack", [*STACKS[2:], Stack(40, 1, 100, 200, layers=1, directions=1)], ids=str)
def test_the_bits_do_not_depend_on_threads(kind: str, stack: Stack) -> None:
    a = stack.arguments(kind, "float32")
    with rk.config(num_threads=1):
        alone = bits_of(*forward(kind, a))
    for num_threads in (2, 3, 5):
        with rk.config(num_threads=num_threads):
            assert bits_of(*forward(kind, a)) == alone, num_threads


@each_kind
@each_isa
@pytest.mark.parametrize("ragged", [False, True])
def test_a_sequence_alone_and_in_a_batch(kind: str, isa: str, ragged: bool) -> None:
    a = Stack(6, 7, 5, 19, ragged=ragged).arguments(kind, "float32")
    with rk.config(isa=isa):
        together = arrays_of(forward(kind, a))
        for b in range(7):
            for alone, of_batch in zip(arrays_of(forward(kind, only(kind, a, [b]))), together, strict=True):
                assert alone.tobytes() == of_batch[:, [b]].tobytes(), b


@pytest.mark.skipif(len(VECTOR_ISAS) < 2, reason="fewer than two vector instruction sets here")
@each_kind
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_the_bits_do_not_depend_on_the_vector_isa(kind: str, stack: Stack) -> None:
    a = stack.arguments(kind, "float32")
    bits = []
    for isa in VECTOR_ISAS:
        with rk.config(isa=isa):
            bits.append(bits_of(*forward(kind, a)))
    assert all(other == bits[0] for other in bits[1:])


# -- what is not finite, nothing, and errors ---------------------------------------------------------------


@each_kind
@each_isa
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "hx"])
def test_what_is_not_finite_stays_in_its_sequence(kind: str, isa: str, bad: float, where: str) -> None:
    a = Stack(5, 6, 9, 19).arguments(kind, "float32")
    with rk.config(isa=isa):
        clean = arrays_of(forward(kind, a))
        if where == "x":
            a["x"][2, 4, 3] = bad
        else:
            (a["hx"][0] if kind == "lstm" else a["hx"])[0, 4, 5] = bad
        spoilt = arrays_of(forward(kind, a))
    others = [0, 1, 2, 3, 5]
    for before, after in zip(clean, spoilt, strict=True):
        assert before[:, others].tobytes() == after[:, others].tobytes()
    assert np.isnan(spoilt[0][:, 4]).all()  # through the second layer, which reads both directions


@each_kind
def test_zeros_tiny_and_huge_rows(kind: str) -> None:
    """No step overflows or vanishes by itself: rows of any finite magnitude stay finite."""
    a = Stack(3, 4, 6, 9, layers=1, directions=1, state=False).arguments(kind, "float32")
    a["x"][:, 0], a["x"][:, 1], a["x"][:, 2] = 0, 1e-42, 1e30
    a["params"][0][0][0][1] = 0
    y, _ = forward(kind, a)
    assert np.isfinite(y).all()
    still = a | {"x": np.zeros_like(a["x"])}
    np.testing.assert_array_equal(y[:, :2], forward(kind, still)[0][:, :2])


@each_kind
@pytest.mark.parametrize(("T", "B", "I", "H"), [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_nothing(kind: str, T: int, B: int, I: int, H: int) -> None:
    rng = np.random.default_rng(0)
    G = CELL_KINDS[kind][2]
    params = [
        [tuple(rng.standard_normal(s).astype(np.float32) for s in ((G * H, I), (G * H, H), G * H, G * H))]
    ]
    a = {"params": params, "x": np.ones((T, B, I), np.float32), "hx": None, "lengths": None}
    got, want = arrays_of(forward(kind, a)), arrays_of(twin(kind, a))
    for result, true in zip(got, want, strict=True):
        assert result.shape == true.shape
        assert relative_error(result, true) < NEIGHBOURS


def test_layers_pack_as_int8() -> None:
    rng = np.random.default_rng(0)
    layer = rk.GRU(5, 9, num_layers=2, batch_first=True, rng=rng)
    x = rng.standard_normal((3, 8, 5), np.float32)
    packed, (want, want_hx) = layer.pack(weight_dtype="int8"), layer(x)
    y, hx = packed.forward(x)
    assert 0 < relative_error(y, want) < EIGHT_BITS
    assert relative_error(hx, want_hx) < EIGHT_BITS
    state = None
    for t in range(8):
        y_t, state = packed.step(x[:, t], state)
        assert y_t.tobytes() == y[:, t].tobytes()
    assert "weight_dtype='int8'" in repr(rk.pack("gru", layer._params(), "int8"))
    assert "weight_dtype='float32'" in repr(rk.pack("gru", layer._params()))


@pytest.mark.parametrize("weight_dtype", ["int4", "float32", 8, np.int8, b"int8", True])
def test_other_weight_dtypes_are_refused(weight_dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"^weight_dtype: expected None or 'int8', got "):
        rk.LSTM(3, 4).pack(weight_dtype)


def test_what_int8_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weight_dtype: expected None for weights of float64, got 'int8'$"):
        rk.LSTM(3, 4, dtype=np.float64).pack("int8")
    layer = rk.LSTM(3, 4, num_layers=2)
    layer.weight_hh_l1[7, 2] = np.nan
    text = r"^params\[1\]\[0\]\.w_hh: expected finite values for int8, got NaN in row 7$"
    with pytest.raises(ValueError, match=text):
        layer.pack("int8")
    layer.weight_ih_l0[2, 1] = -np.inf
    text = r"^params\[0\]\[0\]\.w_ih: expected finite values for int8, got infinity in row 2$"
    with pytest.raises(ValueError, match=text):
        layer.pack("int8")
    layer.pack()
    text = r"^params\[0\]\[0\]\.w_ih: expected at most 133144 columns for int8, got 133145$"
    with pytest.raises(ValueError, match=text):
        rk.RNN(133145, 1).pack("int8")


def test_biases_may_be_anything() -> None:
    layer = rk.RNN(3, 4)
    layer.bias_hh_l0[2] = np.nan
    y, _ = layer.pack("int8").step(np.ones((2, 3), np.float32))
    assert np.isnan(y).tolist() == [[False, False, True, False]] * 2


# -- the twin ----------------------------------------------------------------------------------------------


def test_rounding() -> None:
    rows = np.array(
        [[1, -2, 0.5], [0, 0, 0], [1e-38, 0, 0], [1, np.nan, 2], [np.inf, 1, 1], [127, 2.5, -3.5]]
    )
    q, step = reference.round_to_int8(rows.astype(np.float32))
    want = [[64, -127, 32], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [127, 2, -4]]
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(step[:, 0], np.float32([2 / 127, 0, 0, np.nan, np.nan, 1]))
    assert (q.dtype, step.dtype) == (np.int8, np.float32)


@pytest.mark.parametrize("mistake", ["a step of 1/126", "rounding down", "states that are not rounded"])
def test_the_comparison_can_fail(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = reference.int8
    if mistake == "a step of 1/126":
        monkeypatch.setattr(module, "_MOST", np.float32(126))
    elif mistake == "rounding down":
        monkeypatch.setattr(np, "rint", np.floor)
    else:
        monkeypatch.setattr(module._Rounding, "__rmatmul__", lambda self, rows: rows @ self.view(np.ndarray))
    with pytest.raises(AssertionError, match="passes the forward budget"):
        test_a_step_is_the_twin_s("lstm", ISAS[0], B=3, I=7, H=9, ids=False)
