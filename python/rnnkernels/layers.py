"""Level 1: LSTM, GRU and RNN with PyTorch's constructors and parameter names, over the kernels of functional.

A layer owns its parameters, plain arrays under PyTorch's names, and nothing else: what backward needs is in
the `saved` that forward returns.  forward reads the parameters anew each time; only pack() takes a copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import functional, init
from .types import Array, LayerGrads, Lengths, StackParams, StackSaved, State, is_floating

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Recurrent:
    """What the three layers share: parameters, forward, backward, packing; made through a subclass.

    Parameters of layer l are the attributes ``weight_ih_l{l}``, ``weight_hh_l{l}``, ``bias_ih_l{l}`` and
    ``bias_hh_l{l}``, of the reverse direction the same with ``_reverse``: arrays of PyTorch's shapes and gate
    order, to be changed in place.
    """

    if TYPE_CHECKING:  # the parameters, whose names depend on the layer

        def __getattr__(self, name: str) -> Array: ...

    def __init__(
        self,
        kind: str,
        gates: int,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: npt.DTypeLike,
        rng: np.random.Generator | int | None,
    ) -> None:
        _check_size("input_size", input_size, 0)
        _check_size("hidden_size", hidden_size, 0)
        _check_size("num_layers", num_layers, 1)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a rate in [0, 1], got {dropout}")
        if dropout and num_layers == 1:
            warnings.warn("dropout acts between layers: with num_layers=1 it does nothing", stacklevel=3)
        self.dtype = np.dtype(dtype)
        if self.dtype.name not in ("float32", "float64", "bfloat16", "float16"):
            raise TypeError(f"dtype: expected float32, float64, bfloat16 or float16, got {self.dtype}")
        self.kind, self.input_size, self.hidden_size = kind, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional = dropout, bidirectional

        self._names = [  # [layer][direction], like the parameters of a stack
            [self._names_of(layer, suffix) for suffix in ("", "_reverse")[: 2 if bidirectional else 1]]
            for layer in range(num_layers)
        ]
        self._make_parameters(gates, np.random.default_rng(rng))

    def _names_of(self, layer: int, suffix: str) -> list[str | None]:
        """Names of (w_ih, w_hh, b_ih, b_hh); None for a bias that the layer has not."""
        return [f"{name}_l{layer}{suffix}" if self.bias or "bias" not in name else None for name in _NAMES]

    def _make_parameters(self, gates: int, rng: np.random.Generator) -> None:
        rows, H = gates * self.hidden_size, self.hidden_size
        for layer, directions in enumerate(self._names):
            columns = len(directions) * H if layer else self.input_size
            for names in directions:
                for name, shape in zip(names, ((rows, columns), (rows, H), (rows,), (rows,)), strict=True):
                    if name is not None:
                        setattr(self, name, init.uniform(np.empty(shape, self.dtype), rng, H))

    def __repr__(self) -> str:
        """The call that makes such a layer, without the arguments that have their default."""
        given = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "dtype": (self.dtype.name, "float32"),
        } | self._own_options()
        rest = "".join(f", {name}={value!r}" for name, (value, default) in given.items() if value != default)
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{rest})"

    def _own_options(self) -> dict[str, tuple[Any, Any]]:
        """Constructor arguments of the subclass alone: name -> (value, default)."""
        return {}

    def __call__(
        self, x: Array, hx: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Array, State]:
        """Inference: ``forward`` without dropout, keeping nothing; returns (y, hx)."""
        y, hx, _ = functional.stack_forward(
            self.kind, self._input(x), self._params(), hx, lengths=lengths, save=False
        )
        return self._swap(y), hx

    def forward(
        self,
        x: Array,
        hx: State | None = None,
        *,
        lengths: Lengths | None = None,
        training: bool = False,
        rng: np.random.Generator | int | None = None,
    ) -> tuple[Array, State, StackSaved]:
        """Run the layer and keep what backward needs.

        Parameters
        ----------
        x
            (T, B, input_size), or token ids (T, B) of int32 or int64; (B, T, ...) with batch_first.
        hx
            h0, or (h0, c0) for an LSTM, each (L*D, B, H) with index layer * D + direction, also with
            batch_first; None for zeros.
        lengths
            (B) integers in [0, T]: steps from there on are padding, never read and 0 in y.
        training
            Apply dropout.
        rng
            Generator or 64-bit key for the dropout masks; None for a fresh one.

        Returns
        -------
        y
            (T, B, D*H); with batch_first (B, T, D*H), a view with swapped axes as in PyTorch.
        hx
            The last states, like the argument.
        saved
            For ``backward``.  It borrows x, hx and the parameters, which must not change until then.

        Raises
        ------
        ValueError
            For a wrong shape, length or id.
        TypeError
            For what is no array, or of another dtype than the layer's.
        """
        y, last, saved = functional.stack_forward(
            self.kind,
            self._input(x),
            self._params(),
            hx,
            lengths=lengths,
            dropout=self.dropout if training else 0.0,
            rng=rng,
        )
        assert saved is not None
        return self._swap(y), last, saved

    def backward(self, dy: Array | None, saved: StackSaved, dhx: State | None = None) -> LayerGrads:
        """Gradients of ``forward`` by back-propagation through time.

        Parameters
        ----------
        dy, dhx
            Gradients with respect to y and the returned hx, of their shapes; None means zeros.
        saved
            From ``forward`` of this layer.

        Returns
        -------
        LayerGrads
            dx like x (None for ids), dhx like hx, and params, a dict of gradients by parameter name.

        Raises
        ------
        ValueError
            For a wrong shape, or ``saved`` by a layer of another kind, depth or number of directions.
        TypeError
            For what is no array or of another dtype, or saved by another operation.
        """
        if isinstance(saved, StackSaved):  # anything else is refused below
            own = (self.kind, [len(names) for names in self._names])
            other = (saved.kind, [len(directions) for directions in saved.layers])
            if own != other:
                raise ValueError(
                    f"saved: expected {own[0]} of {own[1]} directions, got {other[0]} of {other[1]}"
                )
        dx, dhx_0, params = functional.stack_backward(None if dy is None else self._swap(dy), saved, dhx)
        assert dhx_0 is not None
        assert params is not None
        gradients = [gradient for of_layer in params for direction in of_layer for gradient in direction]
        named = {
            name: gradient
            for name, gradient in zip(self._flat_names(), gradients, strict=True)
            if name is not None and gradient is not None
        }
        return LayerGrads(None if dx is None else self._swap(dx), dhx_0, named)

    def state_dict(self) -> dict[str, Array]:
        """The parameters by name, in PyTorch's order: the live arrays, not copies."""
        return {name: getattr(self, name) for name in self._flat_names() if name is not None}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copy parameters in; the arrays of the layer stay the same objects.

        Parameters
        ----------
        state_dict
            Arrays by name, of the layer's shapes and dtype; CPU tensors of PyTorch are read as arrays.
        strict
            Whether every parameter must be there and nothing else.  If not, those that are there are loaded.

        Raises
        ------
        ValueError
            For a missing or unknown name (if strict) or a wrong shape; nothing was loaded.
        TypeError
            For what is no array or of another dtype; nothing was loaded.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unknown = [name for name in state_dict if name not in own]
        if strict and (missing or unknown):
            raise ValueError(f"state_dict: expected {', '.join(own)}; missing {missing}, unknown {unknown}")
        arrays = {}
        for name, parameter in own.items():
            if name in state_dict:
                if not hasattr(state_dict[name], "__array__"):
                    raise TypeError(f"{name}: expected an array, got {type(state_dict[name]).__name__}")
                array = arrays[name] = np.asarray(state_dict[name])
                if array.dtype != parameter.dtype:
                    raise TypeError(f"{name}: expected {parameter.dtype} like the layer, got {array.dtype}")
                if array.shape != parameter.shape:
                    raise ValueError(f"{name}: expected {parameter.shape}, got {array.shape}")
        for name, array in arrays.items():
            own[name][...] = array

    def pack(self, weight_dtype: str | None = None) -> Packed:
        """An inference object on a copy of the weights as they are now, laid out once for the kernels.

        Parameters
        ----------
        weight_dtype
            None keeps the weights as they are; "int8", for a float32 layer, rounds them and what they
            multiply to 8 bits: a quarter of the memory, faster, within 3 % of the largest magnitude
            (``rnnkernels.pack``).

        Raises
        ------
        ValueError
            For another weight_dtype, "int8" of a float64 layer, or weights that int8 cannot hold (NaN,
            infinity, more than 133144 columns).
        """
        packed = functional.pack(self.kind, self._params(), weight_dtype)
        return Packed(packed, self.input_size, self.dtype, self.batch_first)

    def _flat_names(self) -> list[str | None]:
        return [name for of_layer in self._names for names in of_layer for name in names]

    def _params(self) -> StackParams:
        def array(name: str | None) -> Any:
            return None if name is None else getattr(self, name)

        return [
            [(array(w_ih), array(w_hh), array(b_ih), array(b_hh)) for w_ih, w_hh, b_ih, b_hh in of_layer]
            for of_layer in self._names
        ]

    def _input(self, x: Array) -> Array:
        _check_input(x, self.input_size, self.dtype)
        return self._swap(x)

    def _swap(self, a: Array) -> Array:
        """With batch_first (B, T, ...) as (T, B, ...) or back."""
        return _swapped(a) if self.batch_first else a


class LSTM(Recurrent):
    """Stacked long short-term memory, as torch.nn.LSTM; equations in ``rnnkernels.reference.lstm_forward``.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    num_layers
        Layers on top of each other.
    bias
        False leaves out bias_ih and bias_hh.
    batch_first
        x and y are (B, T, ...) instead of (T, B, ...); hx is not affected.
    dropout
        Rate at which, in training, outputs of every layer but the last are dropped.
    bidirectional
        Adds to each layer a second one that runs from the last step to the first.
    dtype
        float32, float64, float16, or the bfloat16 of ml_dtypes: of parameters, x, y and h; with 16 bits c is
        float32.
    rng
        Generator or seed for the initial parameters, U(-1/sqrt(H), 1/sqrt(H)); None for a fresh one.

    Raises
    ------
    ValueError
        For a size or a dropout out of range.
    TypeError
        For a size that is no integer, or another dtype.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(
            "lstm",
            4,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            rng,
        )


class GRU(Recurrent):
    """Stacked gated recurrent units, as torch.nn.GRU; equations in ``rnnkernels.reference.gru_forward``.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng
        As in ``LSTM``.
    reset_after
        True is PyTorch's and cuDNN's form, False that of Cho et al. 2014, which PyTorch does not have.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        kind = "gru" if reset_after else "gru_reset_before"
        super().__init__(
            kind,
            3,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            rng,
        )
        self.reset_after = reset_after

    def _own_options(self) -> dict[str, tuple[Any, Any]]:
        return {"reset_after": (self.reset_after, True)}


class RNN(Recurrent):
    """Stacked Elman RNN, as torch.nn.RNN; equations in ``rnnkernels.reference.rnn_forward``.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng
        As in ``LSTM``.
    nonlinearity
        "tanh" or "relu".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        kind = f"rnn_{nonlinearity}"
        super().__init__(
            kind,
            1,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            rng,
        )
        self.nonlinearity = nonlinearity

    def _own_options(self) -> dict[str, tuple[Any, Any]]:
        return {"nonlinearity": (self.nonlinearity, "tanh")}


class Packed:
    """A layer for inference alone, on weights packed once; immutable.  Made by ``layer.pack()``."""

    def __init__(
        self, packed: functional.Packed, input_size: int, dtype: np.dtype[Any], batch_first: bool
    ) -> None:
        self._packed, self._batch_first = packed, batch_first
        self._input_size, self._dtype = input_size, dtype

    def forward(
        self, x: Array, hx: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Array, State]:
        """The same (y, hx) as calling the layer, with int8 nearly; arguments and errors as there."""
        _check_input(x, self._input_size, self._dtype)
        y, hx = self._packed.forward(_swapped(x) if self._batch_first else x, hx, lengths=lengths)
        return _swapped(y) if self._batch_first else y, hx

    def step(self, x_t: Array, hx: State | None = None) -> tuple[Array, State]:
        """One time step, for streaming.

        Parameters
        ----------
        x_t
            (B, input_size), or token ids (B).
        hx
            The state that the last step returned; None at the start.

        Returns
        -------
        y_t, hx
            (B, H) and the state after the step.

        Raises
        ------
        ValueError
            For a bidirectional layer, whose second direction needs the end first, or a wrong shape or id.
        TypeError
            For what is no array, or of another dtype.
        """
        _check_input(x_t, self._input_size, self._dtype)
        return self._packed.step(x_t, hx)


def _check_size(name: str, size: int, least: int) -> None:
    if not isinstance(size, int | np.integer) or isinstance(size, bool):
        raise TypeError(f"{name}: expected an integer, got {type(size).__name__}")
    if size < least:
        raise ValueError(f"{name}: expected at least {least}, got {size}")


def _check_input(x: Array, input_size: int, dtype: np.dtype[Any]) -> None:
    """Blame x, not the weights, where the two do not fit; the kernels check the rest."""
    if is_floating(x):
        if x.dtype != dtype:
            raise TypeError(f"x: expected {dtype} like the layer, got {x.dtype}")
        if x.ndim and x.shape[-1] != input_size:
            raise ValueError(f"x: expected (..., input_size) with input_size = {input_size}, got {x.shape}")


def _swapped(a: Array) -> Array:
    """The first two axes swapped, if it has two; what has not is refused by name further down."""
    return a.swapaxes(0, 1) if isinstance(a, np.ndarray) and a.ndim >= 2 else a
