"""Level 1: layers by their own contract, and against the PyTorch modules of the same names."""

from __future__ import annotations

import importlib
import math
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rnnkernels import reference
from rnnkernels.layers import GRU, LSTM, RNN, Recurrent
from rnnkernels.types import Array

T, B, I, H = 6, 5, 4, 3
LENGTHS = [6, 2, 4, 1, 5]
KINDS = ["lstm", "gru", "gru_reset_before", "rnn_tanh", "rnn_relu"]
F64 = np.float64


def rng() -> np.random.Generator:
    return np.random.default_rng(31)


def make(kind: str, *arguments: Any, **options: Any) -> Recurrent:
    """A layer of a kind, over I inputs with H units, float64 unless told otherwise."""
    options = {"dtype": F64, "rng": rng()} | options
    if kind == "lstm":
        return LSTM(I, H, *arguments, **options)
    if kind.startswith("gru"):
        return GRU(I, H, *arguments, reset_after=kind == "gru", **options)
    return RNN(I, H, *arguments, nonlinearity=kind.removeprefix("rnn_"), **options)


def stack_params(layer: Recurrent) -> list[list[Any]]:
    """The parameters as `reference.stack_forward` takes them, found by name."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    state = layer.state_dict()
    return [
        [tuple(state.get(f"{name}_l{n}{suffix}") for name in names) for suffix in suffixes]
        for n in range(layer.num_layers)
    ]


def states(kind: str, count: int, dtype: type = F64) -> Any:
    """Random hx for `count` = L*D."""
    made = tuple(rng().normal(size=(count, B, H)).astype(dtype) for _ in range(2 if kind == "lstm" else 1))
    return made if kind == "lstm" else made[0]


def as_tuple(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


# -- construction ------------------------------------------------------------------------------------------


def test_parameters_have_the_names_shapes_and_width_of_torch() -> None:
    layer = GRU(20, 30, num_layers=2, bidirectional=True, rng=rng())
    state = layer.state_dict()
    assert list(state)[:5] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
    ]
    assert len(state) == 16
    assert state["weight_ih_l1_reverse"].shape == (90, 60)
    assert state["weight_hh_l1"].shape == (90, 30)
    assert state["bias_hh_l0"].shape == (90,)
    for name, array in state.items():
        assert array is getattr(layer, name)
        assert array.dtype == np.float32
        assert 0.95 < np.abs(array).max() * math.sqrt(30) <= 1
    again = GRU(20, 30, num_layers=2, bidirectional=True, rng=rng())
    assert all(np.array_equal(a, b) for a, b in zip(state.values(), again.state_dict().values(), strict=True))
    assert list(LSTM(2, 3, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]


def test_a_seed_stands_for_its_generator() -> None:
    seeded, drawn = (GRU(3, 4, rng=source) for source in (5, np.random.default_rng(5)))
    for name, w in seeded.state_dict().items():
        np.testing.assert_array_equal(w, drawn.state_dict()[name])


def test_repr_is_the_call() -> None:
    assert repr(LSTM(4, 8)) == "LSTM(4, 8)"
    layer = GRU(4, 8, 2, batch_first=True, dropout=0.5, dtype=F64, reset_after=False)
    assert (
        repr(layer)
        == "GRU(4, 8, num_layers=2, batch_first=True, dropout=0.5, dtype='float64', reset_after=False)"
    )
    assert repr(RNN(4, 8, 1, "relu", False)) == "RNN(4, 8, bias=False, nonlinearity='relu')"


def test_bad_constructor_arguments_are_refused_by_name() -> None:
    for arguments, options, error, text in (
        ((4.0, 8), {}, TypeError, "input_size: expected an integer, got float"),
        ((4, -1), {}, ValueError, "hidden_size: expected at least 0, got -1"),
        ((4, 8, 0), {}, ValueError, "num_layers: expected at least 1, got 0"),
        ((4, 8, True), {}, TypeError, "num_layers: expected an integer, got bool"),
        ((4, 8, 2), {"dropout": 1.1}, ValueError, "dropout: expected a rate in"),
        (
            (4, 8),
            {"dtype": np.int8},
            TypeError,
            "dtype: expected float32, float64, bfloat16 or float16, got int8",
        ),
    ):
        with pytest.raises(error, match=text):
            LSTM(*arguments, **options)
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'elu'"):
        RNN(4, 8, nonlinearity="elu")
    with pytest.warns(UserWarning, match="dropout acts between layers") as record:
        LSTM(4, 8, dropout=0.5)
    assert record[0].filename == __file__


# -- forward and backward ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_layer_is_the_stack_of_its_parameters(kind: str, batch_first: bool) -> None:
    layer = make(kind, num_layers=2, bidirectional=True, batch_first=batch_first, dropout=0.3)
    x, hx, dhx = rng().normal(size=(T, B, I)), states(kind, 4), states(kind, 4)
    dy = rng().normal(size=(T, B, 2 * H))

    def turned(a: Array) -> Array:
        return np.ascontiguousarray(a.swapaxes(0, 1)) if batch_first else a

    options = {"lengths": LENGTHS, "dropout": 0.3, "rng": 77}
    want = reference.stack_forward(kind, x, stack_params(layer), hx, **options)
    y, last, saved = layer.forward(turned(x), hx, lengths=LENGTHS, training=True, rng=77)
    np.testing.assert_allclose(y, turned(want.y), rtol=1e-12)
    for a, b in zip(as_tuple(last), as_tuple(want.hx), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)

    want_grads = reference.stack_backward(dy, want.saved, dhx)
    grads = layer.backward(turned(dy), saved, dhx)
    np.testing.assert_allclose(grads.dx, turned(want_grads.dx), rtol=1e-10, atol=1e-13)
    for a, b in zip(as_tuple(grads.dhx), as_tuple(want_grads.dhx), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    flat = [g for of_layer in want_grads.params for direction in of_layer for g in direction]
    assert list(grads.params) == list(layer.state_dict())
    for name, b in zip(grads.params, flat, strict=True):
        np.testing.assert_allclose(grads.params[name], b, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_call_is_forward_without_dropout(kind: str) -> None:
    layer = make(kind, num_layers=2, dropout=0.5)
    x = rng().normal(size=(T, B, I))
    y, hx = layer(x, states(kind, 2), lengths=LENGTHS)
    want, want_hx, _ = layer.forward(x, states(kind, 2), lengths=LENGTHS)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(hx, want_hx)
    dropped, _, _ = layer.forward(x, states(kind, 2), lengths=LENGTHS, training=True, rng=rng())
    assert (dropped[0] != y[0]).any()


def test_ids_biases_and_absent_cotangents() -> None:
    layer = make("gru", num_layers=2, bias=False, batch_first=True)
    ids = rng().integers(I, size=(B, T))
    y, _, saved = layer.forward(ids)
    np.testing.assert_allclose(y, layer(np.eye(I)[ids])[0], rtol=1e-12)
    grads = layer.backward(None, saved, np.ones((2, B, H)))
    assert grads.dx is None
    assert list(grads.params) == ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]
    assert all(g.any() for g in grads.params.values())


def test_forward_reads_the_live_weights() -> None:
    layer = make("lstm")
    x = rng().normal(size=(T, B, I))
    before, _ = layer(x)
    layer.weight_hh_l0[...] = 0
    changed, _ = layer(x)
    assert (before != changed).any()
    layer.weight_ih_l0 = np.zeros((4 * H, I))  # replaced, not only changed
    assert not np.array_equal(layer(x)[0], changed)


def test_layers_keep_no_activations() -> None:
    layer = make("lstm")
    kept = set(vars(layer))
    _, _, first = layer.forward(rng().normal(size=(T, B, I)))
    layer.forward(rng().normal(size=(2, 1, I)))
    assert set(vars(layer)) == kept
    assert layer.backward(np.ones((T, B, H)), first).dx.shape == (T, B, I)
    again = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(again.weight_hh_l0, layer.weight_hh_l0)


def test_foreign_saved_and_wrong_arrays_are_refused() -> None:
    layer = make("lstm", batch_first=True)
    x = np.zeros((B, T, I))
    _, _, saved = make("gru", 2).forward(np.zeros((T, B, I)))
    with pytest.raises(ValueError, match=r"saved: expected lstm of \[1\] directions, got gru of \[1, 1\]"):
        layer.backward(None, saved)
    with pytest.raises(TypeError, match="saved"):
        layer.backward(None, reference.lstm_forward(np.zeros((T, B, I)), *stack_params(layer)[0][0]).saved)
    packed = layer.pack()
    for run in (layer, layer.forward, packed.forward, lambda x: packed.step(x[0])):
        with pytest.raises(TypeError, match="x: expected float64 like the layer, got float32"):
            run(x.astype(np.float32))
        with pytest.raises(ValueError, match=r"x: expected \(..., input_size\) with input_size = 4, got"):
            run(np.zeros((B, T, I + 1)))
    with pytest.raises(TypeError, match="x"):
        layer([[1.0]])
    with pytest.raises(ValueError, match="x"):
        layer(x[..., 0])
    with pytest.raises(ValueError, match="lengths"):
        layer(x, lengths=[T + 1] * B)
    with pytest.raises(ValueError, match=r"dy"):
        layer.backward(np.zeros((T, B, H + 1)), layer.forward(x)[2])


# -- inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_packed_layer_gives_the_same_and_streams(kind: str) -> None:
    layer = make(kind, num_layers=2)
    x, packed = rng().normal(size=(T, B, I)), layer.pack()
    y, hx = layer(x, lengths=LENGTHS)
    got, got_hx = packed.forward(x, lengths=LENGTHS)
    np.testing.assert_allclose(got, y, rtol=1e-12)
    np.testing.assert_allclose(got_hx, hx, rtol=1e-12)
    y, hx = layer(x)
    state = None
    for t in range(T):
        y_t, state = packed.step(x[t], state)
        np.testing.assert_allclose(y_t, y[t], rtol=1e-12)
    np.testing.assert_allclose(state, hx, rtol=1e-12)


def test_packed_layer_keeps_the_weights_it_was_made_of() -> None:
    layer = make("lstm", bidirectional=True, batch_first=True)
    x = rng().normal(size=(B, T, I))
    packed, (y, _) = layer.pack(), layer(x)
    layer.weight_hh_l0[...] = 0
    np.testing.assert_allclose(packed.forward(x)[0], y, rtol=1e-12)
    with pytest.raises(ValueError, match="direction"):
        packed.step(x[:, 0])


def test_packed_layer_streams_ids() -> None:
    layer = make("gru", batch_first=True)
    ids = rng().integers(I, size=(B, T))
    y, _ = layer(ids)
    packed, state = layer.pack(), None
    for t in range(T):
        y_t, state = packed.step(ids[:, t], state)
        np.testing.assert_allclose(y_t, y[:, t], rtol=1e-12)


# -- state_dict --------------------------------------------------------------------------------------------


def test_state_dict_round_trip() -> None:
    layer, other = make("lstm", 2), make("lstm", 2, rng=np.random.default_rng(1))
    arrays = other.state_dict()
    other.load_state_dict(layer.state_dict())
    for name, array in layer.state_dict().items():
        assert other.state_dict()[name] is arrays[name]
        np.testing.assert_array_equal(arrays[name], array)
    assert not np.shares_memory(layer.weight_hh_l0, other.weight_hh_l0)


def test_bad_state_dicts_load_nothing() -> None:
    layer = make("rnn_tanh")
    good = {name: array + 1 for name, array in layer.state_dict().items()}
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    missing = {k: v for k, v in good.items() if k != "bias_hh_l0"}
    for wrong, error, text in (
        (missing, ValueError, r"missing \['bias_hh_l0'\], unknown \[\]"),
        (good | {"weight": good["weight_ih_l0"]}, ValueError, r"missing \[\], unknown \['weight'\]"),
        (good | {"bias_hh_l0": np.zeros(H + 1)}, ValueError, r"bias_hh_l0: expected \(3,\), got \(4,\)"),
        (
            good | {"bias_hh_l0": np.zeros(H, np.float32)},
            TypeError,
            "bias_hh_l0: expected float64 like the layer",
        ),
        (good | {"bias_hh_l0": [0.0] * H}, TypeError, "bias_hh_l0: expected an array, got list"),
    ):
        with pytest.raises(error, match=text):
            layer.load_state_dict(wrong)
        for name, array in layer.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
    layer.load_state_dict(missing | {"else": good["weight_ih_l0"]}, strict=False)
    np.testing.assert_array_equal(layer.weight_ih_l0, good["weight_ih_l0"])
    np.testing.assert_array_equal(layer.bias_hh_l0, before["bias_hh_l0"])


# -- PyTorch -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return importlib.import_module("torch")


def twin(torch: ModuleType, layer: Recurrent) -> Any:
    """The PyTorch module of the same constructor arguments."""
    options = {
        "num_layers": layer.num_layers,
        "bias": layer.bias,
        "batch_first": layer.batch_first,
        "bidirectional": layer.bidirectional,
        "dtype": torch.float32 if layer.dtype == np.float32 else torch.float64,
    }
    if isinstance(layer, RNN):
        options["nonlinearity"] = layer.nonlinearity
    return getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size, **options)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bias": False},
        {"bidirectional": True, "dtype": np.float32},
    ],
    ids=["plain", "two-ways-batch-first", "no-bias", "float32"],
)
def test_layers_are_those_of_torch(
    torch: ModuleType, kind: str, ragged: bool, options: dict[str, Any]
) -> None:
    layer = make(kind, **options)
    module = twin(torch, layer)
    layer.load_state_dict(module.state_dict())  # and back: the other direction
    module.load_state_dict({k: torch.from_numpy(v) for k, v in layer.state_dict().items()})

    directions = 2 if layer.bidirectional else 1
    shape = (B, T) if layer.batch_first else (T, B)
    x = rng().normal(size=(*shape, I)).astype(layer.dtype)
    hx = states(kind, layer.num_layers * directions, layer.dtype.type)
    dy = rng().normal(size=(*shape, directions * H)).astype(layer.dtype)
    dhx = states(kind, layer.num_layers * directions, layer.dtype.type)

    x_t = torch.tensor(x, requires_grad=True)
    hx_t = tuple(torch.tensor(s, requires_grad=True) for s in as_tuple(hx))
    fed, pack = x_t, torch.nn.utils.rnn
    if ragged:
        fed = pack.pack_padded_sequence(x_t, LENGTHS, batch_first=layer.batch_first, enforce_sorted=False)
    y_t, last_t = module(fed, hx_t if kind == "lstm" else hx_t[0])
    if ragged:
        y_t, _ = pack.pad_packed_sequence(y_t, batch_first=layer.batch_first, total_length=T)
    last_t = as_tuple(last_t)
    torch.autograd.backward((y_t, *last_t), [torch.tensor(g) for g in (dy, *as_tuple(dhx))])

    y, last, saved = layer.forward(x, hx, lengths=LENGTHS if ragged else None)
    grads = layer.backward(dy, saved, dhx)
    got = [y, *as_tuple(last), grads.dx, *as_tuple(grads.dhx), *grads.params.values()]
    parameters = dict(module.named_parameters())
    want = [
        y_t,
        *last_t,
        x_t.grad,
        *(s.grad for s in hx_t),
        *(parameters[name].grad for name in grads.params),
    ]
    assert len(parameters) == len(grads.params)
    tolerance = 1e-11 if layer.dtype == F64 else 3e-5
    for a, b in zip(got, want, strict=True):
        b = b.detach().numpy()
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())
