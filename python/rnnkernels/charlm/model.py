"""The network: token ids -> recurrent stack -> linear head -> softmax, all of it on the kernels.

The first layer takes ids as they are: a column of weight_ih_l0 is an embedding and its projection in one,
gathered instead of multiplied.  All parameters are views into one flat vector and all gradients into
another, so that clipping and the optimiser see two arrays, whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from .. import functional
from ..types import Array, State

# What the command line calls a cell -> its kind in the kernels and its number of gates.
CELLS = {
    "lstm": ("lstm", 4),
    "gru": ("gru", 3),
    "gru-reset-before": ("gru_reset_before", 3),
    "rnn-tanh": ("rnn_tanh", 1),
    "rnn-relu": ("rnn_relu", 1),
}


class CharModel:
    """A stack of recurrent layers over V token ids with a linear head back to V logits.

    Parameters
    ----------
    vocabulary
        V, the number of ids.
    cell
        A key of `CELLS`.
    hidden, layers
        H and L.
    dtype
        float32 or float64.
    rng
        Where the initial weights come from; None leaves them zero, to be loaded.
    ops
        The functions to compute with: `rnnkernels.functional`, or `rnnkernels.reference` to check them.

    Attributes
    ----------
    parameters, gradients
        One flat vector each: first all matrices, then all biases from index `first_bias` on.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        cell: str = "lstm",
        hidden: int = 256,
        layers: int = 1,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
        ops: ModuleType = functional,
    ) -> None:
        self.kind, self.gates = CELLS[cell]
        self.vocabulary, self.hidden, self.layers, self.ops = vocabulary, hidden, layers, ops
        shapes = self._shapes()
        self.parameters = np.zeros(sum(map(math.prod, shapes.values())), dtype)
        self.gradients = np.zeros_like(self.parameters)
        self.first_bias = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
        self._views = self._slice(self.parameters)
        self._gradient_views = self._slice(self.gradients)
        self.stack = [[tuple(self._layer(self._views, layer))] for layer in range(layers)]
        if rng is not None:
            self._initialise(rng)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes as they lie in memory; weight_ih_l0 lies transposed, one row a character."""
        v, h, gh = self.vocabulary, self.hidden, self.gates * self.hidden
        shapes: dict[str, tuple[int, ...]] = {"weight_ih_l0": (v, gh), "weight_hh_l0": (gh, h)}
        for layer in range(1, self.layers):
            shapes |= {f"weight_ih_l{layer}": (gh, h), f"weight_hh_l{layer}": (gh, h)}
        shapes["head.weight"] = (v, h)
        for layer in range(self.layers):
            shapes |= {f"bias_ih_l{layer}": (gh,), f"bias_hh_l{layer}": (gh,)}
        shapes["head.bias"] = (v,)
        return shapes

    def _slice(self, flat: Array) -> dict[str, Array]:
        views, start = {}, 0
        for name, shape in self._shapes().items():
            stop = start + math.prod(shape)
            views[name] = flat[start:stop].reshape(shape)
            start = stop
        views["weight_ih_l0"] = views["weight_ih_l0"].T  # (G*H, V)
        return views

    @staticmethod
    def _layer(views: Mapping[str, Array], layer: int) -> Iterator[Array]:
        return (views[f"{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def _initialise(self, rng: np.random.Generator) -> None:
        """PyTorch's uniform default; the forget gate starts open and the head's bias at zero."""
        bound = 1.0 / math.sqrt(self.hidden)
        for name, view in self._views.items():
            view[...] = rng.uniform(-bound, bound, view.shape)
            if name.startswith("bias_") or name == "head.bias":
                view[...] = 0.0
            if name.startswith("bias_ih") and self.kind == "lstm":
                view[self.hidden : 2 * self.hidden] = 1.0

    def forward_and_backward(
        self,
        inputs: Array,
        targets: Array,
        state: State | None = None,
        *,
        dropout: float = 0.0,
        key: int | None = None,
    ) -> tuple[float, State]:
        """Mean loss over a chunk, in nats a character; its gradients are left in `gradients`.

        Parameters
        ----------
        inputs, targets
            Ids (T, B).
        state
            Where the last chunk ended, or None for zeros.  No gradient flows into it: truncated BPTT.
        dropout, key
            Rate between layers, and the 64-bit key of its mask.

        Returns
        -------
        loss, state
            The loss and the state after the chunk.
        """
        ops, grads = self.ops, self._gradient_views
        y, state, saved = ops.stack_forward(self.kind, inputs, self.stack, state, dropout=dropout, rng=key)
        loss, head = ops.linear_cross_entropy_forward(
            y, self._views["head.weight"], self._views["head.bias"], targets
        )
        out = {"dw": grads["head.weight"], "db": grads["head.bias"]}
        dy = ops.linear_cross_entropy_backward(None, head, out=out).dh
        for layer, (found,) in enumerate(ops.stack_backward(dy, saved, needs={"params"}).params):
            for view, gradient in zip(self._layer(grads, layer), found, strict=True):
                view[...] = gradient
        return float(loss), state

    def loss(self, inputs: Array, targets: Array, state: State | None = None) -> tuple[float, State]:
        """Summed loss in nats over targets that are not -100, and the state after; nothing is saved."""
        y, state, _ = self.ops.stack_forward(self.kind, inputs, self.stack, state, save=False)
        loss, _ = self.ops.linear_cross_entropy_forward(
            y, self._views["head.weight"], self._views["head.bias"], targets, reduction="sum"
        )
        return float(loss), state

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters in PyTorch's shapes, under its names, C-contiguous."""
        return {name: np.array(view, order="C") for name, view in self._views.items()}

    def load_state_dict(self, tensors: Mapping[str, Array]) -> None:
        """Copy parameters in.

        Raises
        ------
        ValueError
            If one is missing or has another shape or dtype; names it.
        """
        for name, view in self._views.items():
            tensor = tensors.get(name)
            if tensor is None:
                raise ValueError(f"{name}: expected a tensor of shape {view.shape}, got none")
            if tensor.shape != view.shape or tensor.dtype != view.dtype:
                raise ValueError(
                    f"{name}: expected {view.dtype} of shape {view.shape}, "
                    f"got {tensor.dtype} of shape {tensor.shape}"
                )
            view[...] = tensor

    @property
    def head(self) -> tuple[Array, Array]:
        """The head's weight (V, H) and bias (V)."""
        return self._views["head.weight"], self._views["head.bias"]
