"""Initialisers by their moments and structure; clipping and optimisers against torch.optim, step by step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rnnkernels import init, optim
from rnnkernels.types import Array

SHAPE = (4 * 40, 60)  # four gates of 40 units over 60 inputs


def rng() -> np.random.Generator:
    return np.random.default_rng(21)


# -- initialisers ------------------------------------------------------------------------------------------

WIDTHS = {  # standard deviation expected of a matrix of SHAPE
    "uniform": (lambda w: init.uniform(w, rng(), 40), 1 / math.sqrt(3 * 40)),
    "xavier_uniform": (lambda w: init.xavier_uniform(w, rng(), gain=2), 2 * math.sqrt(2 / (160 + 60))),
    "xavier_normal": (lambda w: init.xavier_normal(w, rng()), math.sqrt(2 / (160 + 60))),
    "xavier_uniform-gates": (lambda w: init.xavier_uniform(w, rng(), gates=4), math.sqrt(2 / (40 + 60))),
    "xavier_normal-gates": (lambda w: init.xavier_normal(w, rng(), gates=4), math.sqrt(2 / (40 + 60))),
    "he_uniform": (lambda w: init.he_uniform(w, rng()), math.sqrt(2 / 60)),
    "he_normal": (lambda w: init.he_normal(w, rng(), gain=1.0), math.sqrt(1 / 60)),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_random_initialisers_have_their_width(name: str) -> None:
    fill, deviation = WIDTHS[name]
    w = np.full(SHAPE, np.nan)
    assert fill(w) is w
    assert abs(w.mean()) < 4 * deviation / math.sqrt(w.size)
    assert abs(w.std() / deviation - 1) < 4 / math.sqrt(2 * w.size)
    if "uniform" in name:
        bound = math.sqrt(3) * deviation
        assert 0.99 * bound < np.abs(w).max() <= bound
    else:
        assert np.abs(w).max() > 3 * deviation
    small = fill(np.empty(SHAPE, np.float32))
    assert small.dtype == np.float32
    np.testing.assert_array_equal(small, w.astype(np.float32))


@pytest.mark.parametrize("shape", [(12, 12), (12, 5), (12, 30)])
@pytest.mark.parametrize("gates", [1, 4])
def test_orthogonal_blocks_are_orthogonal(shape: tuple[int, int], gates: int) -> None:
    w = init.orthogonal(np.empty(shape), rng(), gain=3, gates=gates)
    for block in np.split(w, gates):
        small = min(block.shape)
        product = block @ block.T if len(block) == small else block.T @ block
        np.testing.assert_allclose(product, 9 * np.eye(small), atol=1e-13)
    if gates > 1:
        assert not np.allclose(w[:3], w[3:6])


def test_orthogonal_matrices_are_drawn_uniformly() -> None:
    """LAPACK alone would give the first element the same sign in every draw."""
    generator = rng()
    positive = sum(init.orthogonal(np.empty((5, 5)), generator)[0, 0] > 0 for _ in range(400))
    assert 150 < positive < 250  # 5 standard deviations


def test_identity_and_forget_gate_bias() -> None:
    np.testing.assert_array_equal(init.identity(np.empty((3, 3)), gain=0.5), 0.5 * np.eye(3))
    np.testing.assert_array_equal(init.forget_gate_bias(np.zeros(8)), [0, 0, 1, 1, 0, 0, 0, 0])
    per_sequence = init.forget_gate_bias(np.zeros((2, 4), np.float32), 2.0)
    np.testing.assert_array_equal(per_sequence, [[0, 2, 0, 0]] * 2)


def test_initialisers_refuse_what_has_no_gates() -> None:
    with pytest.raises(
        ValueError, match=r"w: expected a matrix whose rows divide into 4 gates, got \(6, 2\)"
    ):
        init.orthogonal(np.zeros((6, 2)), rng(), gates=4)
    with pytest.raises(ValueError, match="w: expected a matrix"):
        init.he_normal(np.zeros(6), rng())
    with pytest.raises(ValueError, match=r"b: expected \(4\*H\) or \(B, 4\*H\), got \(6,\)"):
        init.forget_gate_bias(np.zeros(6))


def test_empty_arrays_are_initialised() -> None:
    for shape in ((0, 3), (4, 0), (0, 0)):
        for fill in (
            init.xavier_uniform,
            init.xavier_normal,
            init.he_uniform,
            init.he_normal,
            init.orthogonal,
        ):
            assert fill(np.zeros(shape), rng()).shape == shape
    assert init.uniform(np.zeros((0, 3)), rng(), 0).shape == (0, 3)


@pytest.mark.torch
def test_default_is_the_one_of_torch() -> None:
    torch = importlib.import_module("torch")
    w = torch.nn.GRU(50, 60).weight_hh_l0.detach().numpy()
    ours = init.uniform(np.empty_like(w), rng(), 60)
    assert abs(np.abs(w).max() / np.abs(ours).max() - 1) < 0.01
    assert abs(w.std() / ours.std() - 1) < 0.03


# -- clipping ----------------------------------------------------------------------------------------------


def test_clipping_scales_in_place_and_returns_the_norm() -> None:
    grads = {"a": np.array([3.0, 0.0]), "b": (None, [np.array([[4.0]])])}
    assert optim.clip_grad_norm(grads, 10) == 5
    np.testing.assert_array_equal(grads["a"], [3, 0])
    assert optim.clip_grad_norm(grads, math.inf) == 5
    a = grads["a"]
    assert optim.clip_grad_norm(grads, 1) == 5
    assert grads["a"] is a
    np.testing.assert_allclose(a, [0.6, 0], rtol=1e-6)
    assert optim.clip_grad_norm(grads, 10) == pytest.approx(1, rel=1e-6)
    assert optim.clip_grad_norm([], 1) == 0


def test_clipping_measures_float32_without_overflow() -> None:
    assert optim.clip_grad_norm(np.full(4, 1e30, np.float32), 1) == pytest.approx(2e30)


@pytest.mark.parametrize("bad", [[1.0], np.zeros(2, int), "text"])
def test_clipping_refuses_other_things(bad: Any) -> None:
    with pytest.raises(TypeError, match="grads: expected floating-point NumPy arrays"):
        optim.clip_grad_norm(bad, 1)
    with pytest.raises(ValueError, match="max_norm: expected a number above 0, got nan"):
        optim.clip_grad_norm([], math.nan)


@pytest.mark.torch
@pytest.mark.parametrize("special", [None, math.inf, math.nan])
def test_clipping_is_that_of_torch(special: float | None) -> None:
    torch = importlib.import_module("torch")
    ours = [rng().normal(size=s) for s in ((3, 4), (5,))]
    if special is not None:
        ours[1][2] = special
    tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in ours]
    for tensor, g in zip(tensors, ours, strict=True):
        tensor.grad = torch.tensor(g)
    want = float(torch.nn.utils.clip_grad_norm_(tensors, 0.7))
    with np.errstate(invalid="ignore"):
        got = optim.clip_grad_norm(ours, 0.7)
    np.testing.assert_allclose(got, want, rtol=1e-14)
    for tensor, g in zip(tensors, ours, strict=True):
        np.testing.assert_allclose(g, tensor.grad, rtol=1e-14)


# -- optimisers --------------------------------------------------------------------------------------------

Make = Callable[[Any], optim.Optimizer]
OPTIMIZERS: dict[str, tuple[Make, str, dict[str, Any]]] = {  # ours, torch's and its options
    "adam": (lambda p: optim.Adam(p, 0.02), "Adam", {"lr": 0.02}),
    "adam-betas": (
        lambda p: optim.Adam(p, betas=(0.8, 0.95), eps=1e-4),
        "Adam",
        {"betas": (0.8, 0.95), "eps": 1e-4},
    ),
    "adamw": (lambda p: optim.Adam(p, 0.02, weight_decay=0.3), "AdamW", {"lr": 0.02, "weight_decay": 0.3}),
    "rmsprop": (lambda p: optim.RMSprop(p), "RMSprop", {}),
    "rmsprop-alpha": (
        lambda p: optim.RMSprop(p, 0.1, alpha=0.9, eps=1e-3),
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3},
    ),
    "adagrad": (lambda p: optim.Adagrad(p, 0.1), "Adagrad", {"lr": 0.1}),
    "sgd": (lambda p: optim.SGD(p, 0.1), "SGD", {"lr": 0.1}),
    "momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
}


def parameters() -> list[Array]:
    return [rng().normal(size=s) for s in ((3, 4), (5,))]


def gradients(step: int) -> list[Array]:
    return [np.random.default_rng((step, k)).normal(size=p.shape) for k, p in enumerate(parameters())]


@pytest.fixture(scope="module")
def torch_module() -> ModuleType:
    return importlib.import_module("torch")


@pytest.mark.torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_those_of_torch(torch_module: ModuleType, name: str) -> None:
    torch, (make, twin, options) = torch_module, OPTIMIZERS[name]
    ours = parameters()
    tensors = [torch.tensor(p, requires_grad=True) for p in ours]
    optimizer, other = make(ours), getattr(torch.optim, twin)(tensors, **options)
    for step in range(20):
        if step == 10:  # a schedule
            optimizer.lr *= 0.5
            other.param_groups[0]["lr"] *= 0.5
        for tensor, g in zip(tensors, gradients(step), strict=True):
            tensor.grad = torch.tensor(g)
        optimizer.step(gradients(step))
        other.step()
        for p, tensor in zip(ours, tensors, strict=True):
            np.testing.assert_allclose(p, tensor.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_go_on_from_their_state(name: str) -> None:
    make, _, _ = OPTIMIZERS[name]
    straight, resumed = parameters(), parameters()
    optimizer, first = make(straight), make(resumed)
    for step in range(3):
        optimizer.step(gradients(step))
        first.step(gradients(step))
    state, kept = first.state_dict(), [p.copy() for p in resumed]
    first.step(gradients(9))  # reaches the parameters, not what was handed out
    for p, value in zip(resumed, kept, strict=True):
        p[...] = value
    second = make(resumed)
    second.load_state_dict(state)
    for step in range(3, 6):
        optimizer.step(gradients(step))
        second.step(gradients(step))
    for a, b in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optimisers_work_in_place_in_the_dtype_of_the_parameters(name: str, dtype: type) -> None:
    make, _, _ = OPTIMIZERS[name]
    backing = np.ones((2, 6), dtype)
    params = {"w": backing[:, ::2].T, "empty": np.zeros((0, 3), dtype)}
    optimizer = make(params)
    grads = {"w": np.full((3, 2), 2, dtype), "empty": np.zeros((0, 3), dtype)}
    optimizer.step(grads)
    assert (backing[:, ::2] < 1).all()
    np.testing.assert_array_equal(backing[:, 1::2], 1)
    np.testing.assert_array_equal(grads["w"], 2)
    assert all(a.dtype == dtype for k, a in optimizer.state_dict().items() if k != "step")


def test_weight_decay_is_decoupled_everywhere() -> None:
    for kind in (optim.Adam, optim.RMSprop, optim.Adagrad, optim.SGD):
        decayed, plain = parameters(), [0.95 * p for p in parameters()]
        kind(decayed, 0.5, weight_decay=0.1).step(gradients(0))
        kind(plain, 0.5).step(gradients(0))
        for a, b in zip(decayed, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)


def test_optimisers_refuse_what_does_not_fit_and_change_nothing() -> None:
    params = {"w": np.ones(3, np.float32), "b": np.ones(2, np.float32)}
    optimizer = optim.Adam(params)
    good = {"w": np.ones(3, np.float32), "b": np.ones(2, np.float32)}
    for wrong, error, text in (
        ({"b": np.ones(3, np.float32)}, ValueError, r"grads\[b\]: expected \(2,\), got \(3,\)"),
        ({"b": np.ones(2)}, TypeError, r"grads\[b\]: expected float32, got float64"),
        ({"b": None}, TypeError, r"grads\[b\]: expected a NumPy array, got NoneType"),
        ({"c": np.ones(2)}, ValueError, "grads: expected 2 arrays, got one more, 'c'"),
    ):
        with pytest.raises(error, match=text):
            optimizer.step(good | wrong)
    with pytest.raises(ValueError, match="grads: expected an array 'b', got none"):
        optimizer.step({"w": good["w"]})
    state = optimizer.state_dict()
    assert state["step"] == 0
    with pytest.raises(ValueError, match=r"state: expected an array 'exp_avg\.b', got none"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "exp_avg.b"})
    with pytest.raises(ValueError, match=r"state\[exp_avg.w\]: expected \(3,\), got \(2,\)"):
        optimizer.load_state_dict(state | {"exp_avg.w": np.zeros(2, np.float32)})
    for p in params.values():
        np.testing.assert_array_equal(p, 1)

    frozen = np.ones(2)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[0\]: expected a writeable array"):
        optim.SGD([frozen])
    with pytest.raises(TypeError, match=r"params\[0\]: expected a floating-point NumPy array, got list"):
        optim.SGD([[1.0]])
    with pytest.raises(ValueError, match="lr: expected a finite number >= 0, got -1"):
        optim.SGD(params, -1)
    with pytest.raises(ValueError, match="weight_decay: expected a finite number >= 0, got nan"):
        optim.Adam(params, weight_decay=math.nan)
    with pytest.raises(ValueError, match="betas: expected numbers in"):
        optim.Adam(params, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="momentum: expected a number in"):
        optim.SGD(params, momentum=1.0)
    with pytest.raises(ValueError, match="alpha: expected a number in"):
        optim.RMSprop(params, alpha=-0.1)
