"""bfloat16 and float16: storage with arithmetic in float32.  What the tests of all dtypes leave open.

Rounding is compared with NumPy's and ml_dtypes' to the bit, stacks with their layers one by one, errors with
those of the same computation in PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkernels
from kernelcases import HALVES, ISAS, KINDS, Case, HeadCase, assert_close, run_head, thinned, truth
from rnnkernels import functional, reference
from rnnkernels.testing import (
    CELL_KINDS,
    EPS,
    CellCase,
    CellProblem,
    as_float64,
    dtype_of,
    named_arrays,
    relative_error,
    share_of_budget,
)
from rnnkernels.types import Array

each_kind = pytest.mark.parametrize("kind", KINDS)
each_half = pytest.mark.parametrize("dtype", HALVES)
each_isa = pytest.mark.parametrize("isa", ISAS)


# -- rounding ----------------------------------------------------------------------------------------------


def patterns(dtype: str) -> Array:
    """Every number of the dtype."""
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def same_numbers(a: Array, b: Array) -> bool:
    """To the bit, NaNs apart, which need only stand in the same places."""
    nan = np.isnan(a)
    return bool(np.array_equal(nan, np.isnan(b)) and a[~nan].tobytes() == b[~nan].tobytes())


@each_half
@each_isa
def test_every_number_passes_through(dtype: str, isa: str) -> None:
    """Subnormals, infinities and NaN included: x times 1 plus nothing, in every lane and tail."""
    x = patterns(dtype)
    one = np.ones((1, 1), dtype)
    with rnnkernels.config(isa=isa), np.errstate(invalid="ignore"):  # some of the NaNs are signalling ones
        finite = np.isfinite(x.astype(np.float64))
        for values in (x, x[: 2**15 + 5]):
            y = functional.linear_forward(values[:, None], one).y[:, 0]
            # 0 + -0 is 0
            assert same_numbers(y + np.zeros(1, dtype), values + np.zeros(1, dtype))
        for tail in (1, 3, 7, 8, 9, 15, 17):
            h0 = x[finite][: 64 * tail].reshape(64, tail)
            step = functional.lstm_forward(
                np.zeros((0, 64, 1), dtype),
                np.zeros((4 * tail, 1), dtype),
                np.zeros((4 * tail, tail), dtype),
                h0=h0,
            )
            assert step.h_n.tobytes() == h0.tobytes()


@each_half
@each_isa
def test_rounding_is_to_nearest_even(dtype: str, isa: str) -> None:
    """Sums of two numbers, exact in float32: halfway cases, overflow to infinity, subnormals."""
    rng = np.random.default_rng(0)
    a = patterns(dtype)
    with np.errstate(invalid="ignore"):
        a = a[np.isfinite(a.astype(np.float32))]
    neighbour = np.roll(a, -1)
    bits = rng.integers(2**16, size=a.size, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        bits[np.isnan(bits)] = 0
    w = np.ones((1, 2), dtype)
    with rnnkernels.config(isa=isa), np.errstate(all="ignore"):
        for b in (neighbour, (neighbour.astype(np.float32) / 2).astype(dtype), bits):
            y = functional.linear_forward(np.stack([a, b], axis=1), w).y[:, 0]
            want = (a.astype(np.float32) + b.astype(np.float32)).astype(dtype)
            assert same_numbers(y + np.zeros(1, dtype), want + np.zeros(1, dtype))
    assert np.isinf(want).any()


@each_isa
def test_float16_overflows_to_infinity(isa: str) -> None:
    """In results; what they are computed from is float32, and stays finite."""
    x = np.full((1, 1, 1), 300.0, np.float16)
    w = np.full((1, 1), 300.0, np.float16)
    with rnnkernels.config(isa=isa):
        y, h_n, saved = functional.rnn_forward(x, w, w * 0, nonlinearity="relu")
        grads = functional.rnn_backward(np.full((1, 1, 1), 300.0, np.float16), saved)
        scaled = functional.linear_forward(
            np.full((1, 2), 300.0, np.float16), np.array([[300, -300]], np.float16)
        )
    assert np.isinf(y).all()
    assert np.isinf(h_n).all()
    assert np.isinf(grads.dx).all()
    assert scaled.y == 0


# -- what is rounded, and when -----------------------------------------------------------------------------


@each_kind
@each_half
@each_isa
def test_the_state_is_rounded_each_step(kind: str, dtype: str, isa: str) -> None:
    """Steps one by one, each from what the one before returned, give the bits of the whole sequence."""
    problem = Case(CellCase(9, 5, 7, 17)).problem(kind, dtype)
    name, options, _ = CELL_KINDS[kind]
    forward = getattr(functional, f"{name}_forward")
    a = problem.arguments
    with rnnkernels.config(isa=isa):
        whole = problem.forward(functional)
        state = {key: a[key] for key in ("h0", "c0") if key in a}
        for t in range(9):
            weights = {key: a[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh")}
            one = forward(a["x"][t : t + 1], **weights, **state, **options)
            assert one.y.tobytes() == whole.y[t : t + 1].tobytes(), t
            state = {"h0": one.h_n} | ({"c0": one.c_n} if kind == "lstm" else {})
    assert whole.saved.h.tobytes() == whole.y.tobytes()
    assert whole.h_n.tobytes() == whole.y[-1].tobytes()


# Around the 16 rows of a tile, two of them, and the 32 terms that it adds at once; rows of x that products
# read in place (I a multiple of 32) and not.
TILES = [
    (3, B, I, H)
    for B, (I, H) in zip(
        (15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 96),
        (
            (32, 32),
            (31, 33),
            (33, 31),
            (64, 64),
            (1, 65),
            (63, 96),
            (96, 63),
            (65, 1),
            (128, 48),
            (95, 80),
            (64, 130),
            (40, 16),
        ),
        strict=True,
    )
]


@each_kind
@each_isa
@pytest.mark.parametrize("size", thinned(TILES, 4), ids=str)
def test_tiles_of_16_bits(kind: str, isa: str, size: tuple[int, int, int, int]) -> None:
    """Against the reference, with and without lengths, in either direction; a sequence's bits as if alone."""
    for ragged in (False, True):
        case = Case(CellCase(*size, ragged=ragged, reverse=ragged))
        want = truth(kind, case, "bfloat16")
        with rnnkernels.config(isa=isa):
            got = want.problem.forward(functional)
            assert_close(got, want.forward, "forward", case, "bfloat16")
            alone = {
                name: a[:, 7:8] if name == "x" else a[7:8]
                for name, a in want.problem.arguments.items()
                if name in ("x", "h0", "c0", "lengths")
            }
            one = CellProblem(kind, want.problem.arguments | alone, {}).forward(functional)
        assert one.y.tobytes() == got.y[:, 7:8].tobytes()
        assert one.h_n.tobytes() == got.h_n[7:8].tobytes()


# Units and inputs enough for gate gradients to be rounded; rows (t, b) around the 256 of a chunk; odd sizes.
WIDE = [
    CellCase(*size, **variant)
    for size in ((129, 2, 16, 64), (51, 5, 17, 65), (1, 257, 31, 70), (85, 3, 33, 97))
    for variant in (
        {},
        {"ragged": True, "reverse": True},
        {"bias": "sequence", "ragged": True},
        {"ids": True, "ragged": True},
    )
]


@each_kind
@each_isa
@pytest.mark.parametrize("cell", thinned(WIDE, 4), ids=str)
def test_gradients_of_wide_layers(kind: str, isa: str, cell: CellCase) -> None:
    """Within the budget of all others; on any number of threads and of a sequence alone the same bits."""
    case = Case(cell)
    want = truth(kind, case, "bfloat16")
    grads = []
    for threads in (1, 3):
        with rnnkernels.config(isa=isa, num_threads=threads):
            saved = want.problem.forward(functional).saved
            grads.append(want.problem.backward(functional, saved))
    assert_close(grads[0], want.gradients(saved), "gradient", case, "bfloat16")
    got, again = named_arrays(grads[0]), named_arrays(grads[1])
    assert all(a.tobytes() == again[name].tobytes() for name, a in got.items())

    b = cell.B - 1
    arguments, cotangents = dict(want.problem.arguments), dict(want.problem.cotangents)
    for name in arguments.keys() & {"x", "h0", "c0", "lengths", "b_ih"}:
        if name != "b_ih" or cell.bias == "sequence":
            arguments[name] = arguments[name][:, b:] if name == "x" else arguments[name][b:]
    cotangents = {name: a[:, b:] if name == "dy" else a[b:] for name, a in cotangents.items()}
    alone = CellProblem(kind, arguments, cotangents)
    with rnnkernels.config(isa=isa):
        one = named_arrays(alone.backward(functional, alone.forward(functional).saved))
    for name in got.keys() & {"dx", "dh0", "dc0"}:
        assert (got[name][:, b:] if name == "dx" else got[name][b:]).tobytes() == one[name].tobytes(), name


@each_kind
@each_isa
def test_what_a_call_leaves_in_scratch_reaches_no_other(kind: str, isa: str) -> None:
    """Rows of an odd width end in zeros, where a call of one more column had NaN in the same memory."""
    odd, even = (Case(CellCase(20, 6, size, size)).problem(kind, "bfloat16") for size in (65, 66))
    nan = CellProblem(kind, even.arguments | {"x": np.full_like(even.arguments["x"], np.nan)}, {})
    with rnnkernels.config(isa=isa):
        want = odd.forward(functional)
        nan.forward(functional)
        got = odd.forward(functional)
        assert got.y.tobytes() == want.y.tobytes()
        saved = even.forward(functional).saved
        even.cotangents["dy"][...] = np.nan
        gradients = odd.backward(functional, want.saved)
        even.backward(functional, saved)
        again = named_arrays(odd.backward(functional, want.saved))
    for name, gradient in named_arrays(gradients).items():
        assert gradient.tobytes() == again[name].tobytes(), name


@each_kind
@each_half
@each_isa
def test_a_stack_is_its_layers(kind: str, dtype: str, isa: str) -> None:
    """To the bit, forward and backward: between layers y and its gradient are arrays of the dtype."""
    T, B, I, H, L = 6, 5, 7, 9, 3
    rng = np.random.default_rng(0)
    name, options, gates = CELL_KINDS[kind]
    lengths = [6, 0, 3, 5, 1]

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 2).astype(dtype)

    params = [
        [
            tuple(
                normal(*s)
                for s in ((gates * H, 2 * H if layer else I), (gates * H, H), (gates * H,), (gates * H,))
            )
            for _ in range(2)
        ]
        for layer in range(L)
    ]
    x, dy = normal(T, B, I), normal(T, B, 2 * H)
    with rnnkernels.config(isa=isa):
        y, _, saved = functional.stack_forward(kind, x, params, lengths=lengths)
        grads = functional.stack_backward(dy, saved)
        below, kept = x, []
        for layer in range(L):
            both = [
                getattr(functional, f"{name}_forward")(
                    below, *params[layer][d], lengths=lengths, reverse=d == 1, **options
                )
                for d in range(2)
            ]
            kept.append([one.saved for one in both])
            below = np.concatenate([one.y for one in both], axis=-1)
        assert y.tobytes() == below.tobytes()
        above = dy
        for layer in reversed(range(L)):
            both = [
                getattr(functional, f"{name}_backward")(
                    np.ascontiguousarray(above[..., d * H :][..., :H]), kept[layer][d]
                )
                for d in range(2)
            ]
            for d, one in enumerate(both):
                for got, want in zip(grads.params[layer][d], one[1:5], strict=True):
                    assert got.tobytes() == want.tobytes()
            above = (both[0].dx.astype(np.float32) + both[1].dx.astype(np.float32)).astype(dtype)
    assert grads.dx.tobytes() == above.tobytes()


@each_half
def test_dtypes_of_a_stack_and_its_pack(dtype: str) -> None:
    layer = rnnkernels.LSTM(5, 7, num_layers=2, bidirectional=True, dtype=dtype, rng=np.random.default_rng(0))
    x = np.ones((3, 2, 5), dtype)
    y, (h, c), saved = layer.forward(x)
    grads = layer.backward(y, saved, (h, c))
    assert y.dtype == h.dtype == grads.dx.dtype == grads.dhx[0].dtype == dtype
    assert c.dtype == grads.dhx[1].dtype == np.float32
    assert {gradient.dtype for gradient in grads.params.values()} == {np.dtype(dtype)}
    assert dtype in repr(layer)
    packed = layer.pack()
    for got, want in zip(packed.forward(x, (h, c)), layer(x, (h, c)), strict=True):
        assert np.all(np.asarray(got[0]) == np.asarray(want[0]))
    copy = rnnkernels.LSTM(5, 7, num_layers=2, bidirectional=True, dtype=dtype)
    copy.load_state_dict(layer.state_dict())
    assert copy(x)[0].tobytes() == y.tobytes()
    with pytest.raises(ValueError, match=rf"weight_dtype: expected None for weights of {dtype}, got 'int8'"):
        layer.pack("int8")


@each_half
def test_streaming(dtype: str) -> None:
    layer = rnnkernels.GRU(5, 7, dtype=dtype, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((9, 2, 5)).astype(dtype)
    packed, state, steps = layer.pack(), None, []
    for x_t in x:
        y_t, state = packed.step(x_t, state)
        steps.append(y_t)
    assert np.stack(steps).tobytes() == layer(x)[0].tobytes()


@each_half
@pytest.mark.parametrize("head", ["linear", "cross_entropy", "linear_cross_entropy"])
def test_losses_are_float32(dtype: str, head: str) -> None:
    arguments = HeadCase((700,), 9, 11, ignored=0.3).arguments(dtype)
    forward, grads = run_head(head, functional, arguments)
    assert all(array.dtype == dtype for array in named_arrays(grads).values())
    if head != "linear":
        assert forward.loss.dtype == forward.saved.lse.dtype == np.float32
        want, _ = run_head(head, reference, as_float64(arguments))
        assert share_of_budget(forward.loss, want.loss, dtype="float32", kind="forward") <= 1


# -- refusals ----------------------------------------------------------------------------------------------


def lstm_arguments(dtype: str) -> dict[str, Any]:
    return Case(CellCase(2, 3, 4, 5)).problem("lstm", dtype).arguments


@each_half
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "b_ih", "b_hh", "h0"])
def test_dtypes_are_not_mixed(dtype: str, name: str) -> None:
    for other in {"float32", *HALVES} - {dtype}:
        arguments = lstm_arguments(dtype)
        arguments[name] = arguments[name].astype(np.float32).astype(other)
        with pytest.raises(TypeError, match=rf"{name}: expected {dtype} like x, got {other}"):
            functional.lstm_forward(**arguments)


@each_half
def test_c_is_float32(dtype: str) -> None:
    arguments = lstm_arguments(dtype)
    saved = functional.lstm_forward(**arguments).saved
    text = rf"expected float32, as \w+ is {dtype}, got {dtype}"
    with pytest.raises(TypeError, match="c0: " + text):
        functional.lstm_forward(**arguments | {"c0": arguments["c0"].astype(dtype)})
    with pytest.raises(TypeError, match="dc_n: " + text):
        functional.lstm_backward(None, saved, dc_n=np.zeros((3, 5), dtype))
    with pytest.raises(TypeError, match=r"out\['c_n'\]: " + text):
        functional.lstm_forward(**arguments, out={"c_n": np.zeros((3, 5), dtype)})


@each_half
def test_weights_pass_through_a_file(dtype: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="weight files need the extra cli")
    layer, other = rnnkernels.LSTM(3, 4, dtype=dtype, rng=1), rnnkernels.LSTM(3, 4, dtype=dtype, rng=2)
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other.load_state_dict(safetensors.load_file(tmp_path / "layer.safetensors"))
    x = np.ones((2, 1, 3), dtype)
    np.testing.assert_array_equal(other(x)[0], layer(x)[0])


@each_half
def test_optimisers_refuse_16_bits(dtype: str) -> None:
    layer = rnnkernels.GRU(3, 4, dtype=dtype)
    with pytest.raises(TypeError, match=rf"params\[weight_ih_l0\]: expected float32 or wider, got {dtype}"):
        rnnkernels.optim.SGD(layer.state_dict())


@each_half
def test_gradients_are_clipped_in_float32(dtype: str) -> None:
    """A scale that is itself below the dtype's numbers, and gradients whose squares are above them."""
    rng = np.random.default_rng(7)
    grads = [(rng.normal(size=shape) * 2e4).astype(dtype) for shape in ((3, 5), (7,))]
    wide = [g.astype(np.float64) for g in grads]
    norm = np.sqrt(sum((g**2).sum() for g in wide))
    assert rnnkernels.optim.clip_grad_norm(grads, 1e-4) == pytest.approx(norm, rel=1e-12)
    for got, g in zip(grads, wide, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(np.float64), g * 1e-4 / norm, rtol=2.0**-8, atol=2.0**-25)


def test_another_dtype_of_16_bits() -> None:
    """Told by its name alone."""
    arguments = lstm_arguments("bfloat16")
    for other in (np.int16, np.uint16, "V2", ml_dtypes.float8_e4m3fn, np.dtype(np.float16).newbyteorder()):
        with pytest.raises(TypeError, match="x: expected float32, float64, bfloat16, float16, or token ids"):
            functional.lstm_forward(**arguments | {"x": np.zeros((2, 3, 4), other)})


# -- errors ------------------------------------------------------------------------------------------------


def changed(kind: str, dtype: str, change: Any) -> float:
    want = truth(kind, Case(CellCase(6, 5, 7, 9)), dtype)
    problem = want.problem
    arguments = dict(problem.arguments)
    change(arguments)
    got = CellProblem(kind, arguments, problem.cotangents).forward(functional)
    return share_of_budget(got.y, want.forward.y, dtype=dtype, kind="forward")


@each_kind
@each_half
def test_the_comparison_can_fail(kind: str, dtype: str) -> None:
    """A weight that is left out, a number that is truncated where it should be rounded."""
    assert changed(kind, dtype, lambda a: None) <= 1
    assert changed(kind, dtype, lambda a: a.update(b_hh=np.zeros_like(a["b_hh"]))) > 4

    def coarser(a: dict[str, Any]) -> None:
        bits = a["w_hh"].view(np.uint16) & np.uint16(0xFFF0)
        a["w_hh"] = bits.view(dtype)

    assert changed(kind, dtype, coarser) > 1


def in_torch(
    kind: str, dtype: str, arguments: dict[str, Any], cotangents: dict[str, Array]
) -> dict[str, Array]:
    """Results and gradients of torch.nn's layer in the dtype, c as well, as float64."""
    import torch

    half = getattr(torch, dtype)

    def tensor(array: Array) -> Any:
        return torch.from_numpy(array.astype(np.float64)).to(half)

    I, H = arguments["x"].shape[2], arguments["w_hh"].shape[1]
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(kind, torch.nn.RNN)
    options = {"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}
    layer = module(I, H, **options).to(half)
    names = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
    with torch.no_grad():
        for theirs, ours in names.items():
            getattr(layer, theirs).copy_(tensor(arguments[ours]))
    x = tensor(arguments["x"]).requires_grad_()
    states = [tensor(arguments[s])[None].requires_grad_() for s in ("h0", "c0") if s in arguments]
    y, last = layer(x, tuple(states) if kind == "lstm" else states[0])
    results = [y, *(last if kind == "lstm" else (last,))]
    gradients = [tensor(cotangents["dy"])] + [
        tensor(cotangents[d])[None] for d in ("dh_n", "dc_n") if d in cotangents
    ]
    torch.autograd.backward(results, gradients)
    found = dict(zip(("y", "h_n", "c_n"), results, strict=False))
    found |= {"dx": x.grad} | dict(zip(("dh0", "dc0"), (s.grad for s in states), strict=False))
    found |= {f"d{ours}": getattr(layer, theirs).grad for theirs, ours in names.items()}
    return {
        name: (value[0] if name in ("h_n", "c_n", "dh0", "dc0") else value).detach().double().numpy()
        for name, value in found.items()
    }


@pytest.mark.torch
@pytest.mark.parametrize(
    "kind", ["lstm", "gru", "rnn_tanh"]
)  # relu's corners make any two computations differ
@each_half
@each_isa
@pytest.mark.parametrize("size", [(20, 8, 16, 32), (50, 16, 64, 64), (100, 4, 48, 128)])
def test_errors_beside_pytorch_s(kind: str, dtype: str, isa: str, size: tuple[int, int, int, int]) -> None:
    """At most twice those of the same computation in PyTorch, the contract; in fact no larger at all."""
    want = truth(kind, Case(CellCase(*size)), dtype)
    wanted = named_arrays(want.forward) | named_arrays(want.backward)
    theirs = in_torch(kind, dtype, want.problem.arguments, want.problem.cotangents)
    with rnnkernels.config(isa=isa):
        forward = want.problem.forward(functional)
        ours = named_arrays(forward) | named_arrays(want.problem.backward(functional, forward.saved))
    assert len(theirs) >= 8
    for name, array in theirs.items():
        error = relative_error(ours[name], wanted[name])
        assert error <= 2 * relative_error(array, wanted[name]), name
        assert error <= EPS[dtype], name  # from end to end
        assert ours[name].dtype == dtype_of(name, dtype)
