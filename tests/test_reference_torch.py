"""The references against PyTorch in float64: cells, whole stacks, packed sequences, heads, and what NaN does.

PyTorch has no GRU that resets before the product; its twin here is the paper's equation under autograd.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rnnkernels.reference as reference
from rnnkernels.types import Array

pytestmark = pytest.mark.torch

T, B, I, H = 7, 5, 4, 3
LENGTHS = [4, 7, 1, 6, 7]
KINDS = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return importlib.import_module("torch")


def assert_close(got: Array | None, want: Any, name: str) -> None:
    """Assert that an array is a tensor, to within rounding relative to the largest element."""
    want = want.detach().numpy()
    assert got is not None, name
    assert got.shape == want.shape, name
    error = np.abs(got - want).max(initial=0) / max(1.0, np.abs(want).max(initial=0))
    assert error <= TOLERANCE, f"{name}: {error:.2g} away from PyTorch"


def module(torch: ModuleType, kind: str, layers: int, bidirectional: bool, bias: bool) -> Any:
    """The PyTorch module of a kind, in float64."""
    torch.manual_seed(3)
    options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "dtype": torch.float64}
    if kind.startswith("rnn"):
        return torch.nn.RNN(I, H, nonlinearity=kind.removeprefix("rnn_"), **options)
    return getattr(torch.nn, kind.upper())(I, H, **options)


def parameters(module: Any) -> list[list[list[Any]]]:
    """[layer][direction]: weight_ih, weight_hh, bias_ih, bias_hh, a bias None where the module has none."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    return [
        [[getattr(module, f"{name}_l{layer}{suffix}", None) for name in names] for suffix in suffixes]
        for layer in range(module.num_layers)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "packed"])
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias"),
    [(1, False, True), (1, True, True), (2, True, True), (2, False, False)],
)
def test_stacks_are_those_of_torch(
    torch: ModuleType, kind: str, lengths: list[int] | None, layers: int, bidirectional: bool, bias: bool
) -> None:
    twin = module(torch, kind, layers, bidirectional, bias)
    directions = 2 if bidirectional else 1
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x = random(T, B, I)
    hx = tuple(random(layers * directions, B, H) for _ in range(2 if kind == "lstm" else 1))
    rnn = torch.nn.utils.rnn
    fed = x if lengths is None else rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, last = twin(fed, hx if kind == "lstm" else hx[0])
    if lengths is not None:
        y, _ = rnn.pad_packed_sequence(y, total_length=T)
    last = last if kind == "lstm" else (last,)
    weights = [random(*r.shape).detach() for r in (y, *last)]
    sum((w * r).sum() for w, r in zip(weights, (y, *last), strict=True)).backward()

    params = [
        [tuple(None if p is None else p.detach().numpy() for p in direction) for direction in layer]
        for layer in parameters(twin)
    ]
    states = tuple(s.detach().numpy() for s in hx)
    got = reference.stack_forward(
        kind, x.detach().numpy(), params, states if kind == "lstm" else states[0], lengths=lengths
    )
    assert_close(got.y, y, "y")
    for state, want in zip(got.hx if kind == "lstm" else (got.hx,), last, strict=True):
        assert_close(state, want, "hx")

    dy, *dlast = (w.numpy() for w in weights)
    grads = reference.stack_backward(dy, got.saved, tuple(dlast) if kind == "lstm" else dlast[0])
    assert_close(grads.dx, x.grad, "dx")
    for state, want in zip(grads.dhx if kind == "lstm" else (grads.dhx,), hx, strict=True):
        assert_close(state, want.grad, "dhx")
    for layer, wanted_layer in zip(grads.params, parameters(twin), strict=True):
        for direction, wanted in zip(layer, wanted_layer, strict=True):
            for gradient, parameter in zip(direction, wanted, strict=True):
                if parameter is None:
                    assert gradient is None
                else:
                    assert_close(gradient, parameter.grad, "params")


def test_permuted_gates_and_a_wrong_mask_are_not_torch(torch: ModuleType) -> None:
    twin = module(torch, "lstm", 1, False, True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    rnn = torch.nn.utils.rnn
    y, _ = rnn.pad_packed_sequence(
        twin(rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False))[0], total_length=T
    )
    [[right]] = [[tuple(p.detach().numpy() for p in d) for d in layer] for layer in parameters(twin)]
    assert_close(reference.lstm_forward(x.numpy(), *right, lengths=LENGTHS).y, y, "y")
    order = np.r_[H : 2 * H, :H, 2 * H : 4 * H]  # f, i, g, o
    permuted = reference.lstm_forward(x.numpy(), *(p[order] for p in right), lengths=LENGTHS)
    masked = reference.lstm_forward(x.numpy(), *right, lengths=[4, 7, 2, 6, 7])
    for wrong in (permuted, masked):
        with pytest.raises(AssertionError, match="away from PyTorch"):
            assert_close(wrong.y, y, "y")


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_that_resets_before_is_its_equation_under_autograd(torch: ModuleType, reverse: bool) -> None:
    torch.manual_seed(5)
    shapes = ((T, B, I), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,), (B, H))
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    x, w_ih, w_hh, b_ih, b_hh, h = tensors
    ys = {}
    for t in reversed(range(T)) if reverse else range(T):
        xr, xz, xn = (x[t] @ w_ih.T + b_ih).chunk(3, dim=-1)
        (w_hr, w_hz, w_hn), (b_hr, b_hz, b_hn) = w_hh.chunk(3), b_hh.chunk(3)
        r = torch.sigmoid(xr + h @ w_hr.T + b_hr)
        z = torch.sigmoid(xz + h @ w_hz.T + b_hz)
        n = torch.tanh(xn + (r * h) @ w_hn.T + b_hn)
        h = ys[t] = (1 - z) * n + z * h
    y = torch.stack([ys[t] for t in range(T)])
    dy, dh_n = torch.randn(T, B, H, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)
    ((dy * y).sum() + (dh_n * h).sum()).backward()

    arrays = [tensor.detach().numpy() for tensor in tensors]
    got = reference.gru_forward(*arrays, reset_after=False, reverse=reverse)
    assert_close(got.y, y, "y")
    assert_close(got.h_n, h, "h_n")
    grads = reference.gru_backward(dy.numpy(), got.saved, dh_n.numpy())
    for name, gradient, tensor in zip(grads._fields, grads, tensors, strict=True):
        assert_close(gradient, tensor.grad, name)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_an_embedding(torch: ModuleType, kind: str) -> None:
    twin = module(torch, kind, 1, False, True)
    ids = torch.randint(I, (T, B))
    y, _ = twin(torch.nn.functional.one_hot(ids, I).double())
    dy = torch.randn(T, B, H, dtype=torch.float64)
    (dy * y).sum().backward()
    [[tensors]] = parameters(twin)
    arrays = tuple(p.detach().numpy() for p in tensors)
    got = reference.stack_forward(kind, ids.numpy(), [[arrays]])
    assert_close(got.y, y, "y")
    grads = reference.stack_backward(dy.numpy(), got.saved)
    assert grads.dx is None
    assert_close(grads.params[0][0][0], tensors[0].grad, "dw_ih")


@pytest.mark.parametrize("kind", KINDS)
def test_nan_goes_where_it_goes_in_torch(torch: ModuleType, kind: str) -> None:
    twin = module(torch, kind, 1, False, True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    x[3, 1, 0] = torch.nan
    x.requires_grad_()
    y, _ = twin(x)
    y.sum().backward()
    [[tensors]] = parameters(twin)
    got = reference.stack_forward(kind, x.detach().numpy(), [[tuple(p.detach().numpy() for p in tensors)]])
    np.testing.assert_allclose(got.y, y.detach(), rtol=1e-12)
    grads = reference.stack_backward(np.ones((T, B, H)), got.saved)
    np.testing.assert_allclose(grads.dx, x.grad, rtol=1e-11, atol=1e-14)
    for gradient, tensor in zip(grads.params[0][0], tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_is_that_of_torch(torch: ModuleType, reduction: str, ignore_index: int) -> None:
    V = 6
    options = {"ignore_index": ignore_index, "reduction": reduction}
    h, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((T, B, H), (V, H), (V,)))
    targets = torch.randint(V, (T, B))
    targets[0, :2] = ignore_index
    logits = torch.nn.functional.linear(h, w, b)
    logits.retain_grad()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options)
    dloss = torch.randn(loss.shape, dtype=torch.float64)
    loss.backward(dloss)

    arrays = [tensor.detach().numpy() for tensor in (h, w, b)]
    linear = reference.linear_forward(*arrays)
    assert_close(linear.y, logits, "y")
    two = reference.softmax_cross_entropy_forward(linear.y, targets.numpy(), **options)
    one = reference.linear_cross_entropy_forward(*arrays, targets.numpy(), **options)
    dloss = dloss.reshape(two.loss.shape).numpy()
    dlogits = reference.softmax_cross_entropy_backward(dloss, two.saved).dlogits
    assert_close(two.loss, loss.reshape(two.loss.shape), "loss")
    assert_close(one.loss, loss.reshape(one.loss.shape), "loss")
    assert_close(dlogits, logits.grad, "dlogits")
    for grads in (
        reference.linear_backward(dlogits, linear.saved),
        reference.linear_cross_entropy_backward(dloss, one.saved),
    ):
        for gradient, tensor in zip(grads, (h, w, b), strict=True):
            assert_close(gradient, tensor.grad, "gradient")


def test_cross_entropy_edges_are_those_of_torch(torch: ModuleType) -> None:
    rows = [[0.0, -np.inf, 1.0], [-np.inf] * 3, [np.inf, 0.0, 0.0], [np.nan, 0.0, 0.0], [1e300, -1e300, 0.0]]
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 1, 2, 0])
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    loss.sum().backward()
    got = reference.softmax_cross_entropy_forward(logits.detach().numpy(), targets.numpy(), reduction="none")
    np.testing.assert_allclose(got.loss, loss.detach().numpy(), rtol=1e-14)
    dlogits = reference.softmax_cross_entropy_backward(None, got.saved).dlogits
    np.testing.assert_allclose(dlogits, logits.grad.numpy(), rtol=1e-12)

    nothing = torch.full((2,), -100)
    zeros = np.zeros((2, 3))
    assert torch.nn.functional.cross_entropy(torch.tensor(zeros), nothing).isnan()
    assert np.isnan(reference.softmax_cross_entropy_forward(zeros, nothing.numpy()).loss)
