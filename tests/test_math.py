"""exp, sigmoid and tanh of csrc/core/math.h in units in the last place (ULP), reached through kernels.

With every weight and the other bias -0 a cell's pre-activation is its bias per sequence to the bit, even -0;
a cross-entropy whose log-sum-exp is set to 0 has exp(logits) for a gradient.  The truth is NumPy's in the
next wider format, which on some machines is none for float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

import rnnkernels
from kernelcases import FLOATS, ISAS, VECTOR_ISAS, thinned
from rnnkernels.types import Array, CrossEntropySaved

LANES = 64  # units, so that every lane of a vector computes
ULP = 4
WIDER = {"float32": np.float64, "float64": np.longdouble}

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", FLOATS)


def through_a_cell(
    values: Array, gates: int, read: Callable[..., Array], forward: Callable[..., Any]
) -> Array:
    """What `read` finds in the result of one step whose pre-activations, of all gates, are `values`."""
    rows = -(-values.size // LANES)
    padded = np.zeros(rows * LANES, values.dtype)
    padded[: values.size] = values
    H, dtype = LANES, values.dtype
    zero = np.full((gates * H, 1), -0.0, dtype)
    state = np.full((gates * H, H), -0.0, dtype)
    bias = np.concatenate([padded.reshape(rows, H)] * gates, axis=1)
    result = forward(np.zeros((1, rows, 1), dtype), zero, state, bias, np.full(gates * H, -0.0, dtype))
    return read(result).reshape(-1)[: values.size]


def kernel_tanh(values: Array) -> Array:
    return through_a_cell(values, 1, lambda result: result.y[0], rnnkernels.rnn_forward)


def lstm_gate(gate: int) -> Callable[[Array], Array]:
    def read(result: Any) -> Array:
        return np.ascontiguousarray(result.saved.gates[0, :, gate * LANES : (gate + 1) * LANES])

    return lambda values: through_a_cell(values, 4, read, rnnkernels.lstm_forward)


kernel_sigmoid = lstm_gate(3)


def kernel_exp(values: Array) -> Array:
    logits = np.stack([np.zeros_like(values), values], axis=-1)
    targets = np.zeros(values.size, np.int64)
    saved = CrossEntropySaved(logits, targets, -100, "none", np.zeros_like(values), values.size)
    return np.ascontiguousarray(rnnkernels.softmax_cross_entropy_backward(None, saved).dlogits[:, 1])


def true_sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@cache
def every_exponent(dtype: str) -> Array:
    """Positive and negative numbers with every exponent there is, subnormal ones too, and corners of each."""
    info = np.finfo(dtype)
    bits, mantissa = (np.uint32, info.nmant) if dtype == "float32" else (np.uint64, info.nmant)
    rng = np.random.default_rng(8)
    exponents = np.arange(2 ** (info.bits - 1 - mantissa) - 1)  # without those of infinity and NaN
    # most of them where the functions change, between 2**-15 and 2**11
    middle = np.abs(exponents - (len(exponents) // 2 - 2)) <= 13
    count = np.where(middle, 4000 if dtype == "float32" else 1000, 40)
    exponents = np.repeat(exponents, count).astype(bits)
    mantissas = rng.integers(2**mantissa, size=len(exponents), dtype=bits)
    corners = rng.integers(12, size=len(exponents))
    mantissas[corners == 0] = 0
    mantissas[corners == 1] = 2**mantissa - 1
    positive = ((exponents << bits(mantissa)) | mantissas).view(dtype)
    return np.array(thinned(np.concatenate([positive, -positive])), dtype)


def worst_ulp(function: Callable[[Array], Array], truth: Callable[[Array], Array], values: Array) -> float:
    """Largest error, in ULP of the true value, where that is normal."""
    dtype = values.dtype
    if np.finfo(WIDER[dtype.name]).eps > np.finfo(dtype).eps / 1000:
        pytest.skip(f"no wider format than {dtype} here")
    with np.errstate(over="ignore", under="ignore"):
        want = truth(values.astype(WIDER[dtype.name]))
    info = np.finfo(dtype)
    normal = (np.abs(want) >= info.smallest_normal) & (np.abs(want) <= info.max)
    with np.errstate(under="ignore"):
        ulp = np.spacing(np.abs(want[normal]).astype(dtype)).astype(want.dtype)
    return float((np.abs(function(values)[normal].astype(want.dtype) - want[normal]) / ulp).max(initial=0))


@each_isa
@each_dtype
def test_tanh_is_accurate(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        assert worst_ulp(kernel_tanh, np.tanh, every_exponent(dtype)) <= ULP
        dense = np.linspace(-10, 10, 100_003).astype(dtype)
        assert worst_ulp(kernel_tanh, np.tanh, dense) <= ULP
        assert worst_ulp(lstm_gate(2), np.tanh, dense) <= ULP


@each_isa
@each_dtype
def test_sigmoid_is_accurate(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        assert worst_ulp(kernel_sigmoid, true_sigmoid, every_exponent(dtype)) <= ULP
        lowest = np.log(np.finfo(dtype).smallest_normal)
        dense = np.linspace(lowest, 40, 100_003).astype(dtype)
        for gate in (0, 1, 3):
            assert worst_ulp(lstm_gate(gate), true_sigmoid, dense) <= ULP


@each_isa
@each_dtype
def test_exp_is_accurate(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        assert worst_ulp(kernel_exp, np.exp, every_exponent(dtype)) <= ULP
        info = np.finfo(dtype)
        dense = np.linspace(np.log(info.smallest_normal), np.log(info.max), 200_003).astype(dtype)
        assert worst_ulp(kernel_exp, np.exp, dense) <= ULP


def test_the_measure_sees_an_error() -> None:
    values = np.linspace(-5, 5, 1001).astype(np.float32)
    assert worst_ulp(lambda x: np.tanh(x) * np.float32(1 + 6e-7), np.tanh, values) > ULP


@each_isa
@each_dtype
def test_tanh_is_odd_and_saturates(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        values = every_exponent(dtype)
        assert kernel_tanh(-values).tobytes() == (-kernel_tanh(values)).tobytes()
        zeros = np.array([0.0, -0.0], dtype)
        assert kernel_tanh(zeros).tobytes() == zeros.tobytes()
        if dtype == "float32":
            large = values[np.abs(values) >= np.float32(9.02)]
            edge = np.nextafter(np.float32(9.02), np.float32(np.inf))
            large = np.concatenate([large, np.array([edge, -edge, np.inf, -np.inf], dtype)])
        else:
            large = np.array([20.0, -20.0, 1e300, -1e300, np.inf, -np.inf], dtype)
        np.testing.assert_array_equal(kernel_tanh(large), np.sign(large))
        assert (np.abs(kernel_tanh(values)) <= 1).all()
        tiny = np.array([np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny], dtype)
        np.testing.assert_array_equal(kernel_tanh(tiny), tiny)


@each_isa
@each_dtype
def test_sigmoid_stays_within_its_range(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        result = kernel_sigmoid(every_exponent(dtype))
        assert ((result >= 0) & (result <= 1)).all()
        special = np.array([np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
        np.testing.assert_array_equal(kernel_sigmoid(special), np.array([1, 0, 0.5, 0.5, 1, 0], dtype))


@each_isa
@each_dtype
def test_exp_overflows_and_underflows(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
        np.testing.assert_array_equal(kernel_exp(special), np.array([1, 1, np.inf, 0, np.inf, 0], dtype))
        # subnormal results: off by the rounding of the last bit they have, or two
        info = np.finfo(dtype)
        low = np.linspace(np.log(info.smallest_subnormal), np.log(info.smallest_normal), 10_001).astype(dtype)
        error = np.abs(kernel_exp(low).astype(WIDER[dtype]) - np.exp(low.astype(WIDER[dtype])))
        assert error.max() <= ULP * np.asarray(info.smallest_subnormal, WIDER[dtype])


@each_isa
@each_dtype
def test_nan_passes(isa: str, dtype: str) -> None:
    values = np.array([np.nan, 1.0, -np.nan], dtype)
    with rnnkernels.config(isa=isa):
        for function in (kernel_tanh, kernel_sigmoid, kernel_exp, lstm_gate(0), lstm_gate(1), lstm_gate(2)):
            np.testing.assert_array_equal(np.isnan(function(values)), [True, False, True])


@pytest.mark.skipif(len(VECTOR_ISAS) < 2, reason="fewer than two vector instruction sets here")
@each_dtype
@pytest.mark.parametrize("function", [kernel_tanh, kernel_sigmoid, kernel_exp])
def test_the_bits_are_those_of_every_vector_isa(dtype: str, function: Callable[[Array], Array]) -> None:
    with np.errstate(over="ignore"):
        values = np.concatenate([every_exponent(dtype), np.linspace(-110, 110, 100_003).astype(dtype)])
    bits = []
    for isa in VECTOR_ISAS:
        with rnnkernels.config(isa=isa):
            bits.append(function(values).tobytes())
    assert len(set(bits)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "truth"),
    [(kernel_tanh, np.tanh), (kernel_sigmoid, true_sigmoid), (kernel_exp, np.exp)],
    ids=["tanh", "sigmoid", "exp"],
)
def test_every_float32(function: Callable[[Array], Array], truth: Callable[[Array], Array]) -> None:
    """All of them whose magnitude lies between 2**-14 and 128: below, the functions are linear."""
    first, last = (int(np.float32(edge).view(np.uint32)) for edge in (2.0**-14, 128.0))
    block = 1 << 18
    for begin in range(first, last, block):
        values = np.arange(begin, min(last, begin + block), dtype=np.uint32).view(np.float32)
        assert worst_ulp(function, truth, values) <= ULP
        assert worst_ulp(function, truth, -values) <= ULP
