"""The network: token ids -> embedding -> recurrent stack -> linear head -> softmax, all of it on the kernels.

Embedding and first projection are fused: their product, a row of gates a character, is made once a step, and
the first layer gathers from it what PyTorch would compute for every character of the text.  All parameters
are views into one flat vector and all gradients into another: clipping and optimiser see few arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from .. import functional, init
from ..types import Array, CellParams, LinearForward, State

# What the command line calls a cell -> its kind in the kernels and its number of gates.
CELLS = {
    "lstm": ("lstm", 4),
    "gru": ("gru", 3),
    "gru-reset-before": ("gru_reset_before", 3),
    "rnn-tanh": ("rnn_tanh", 1),
    "rnn-relu": ("rnn_relu", 1),
}


class CharModel:
    """An embedding of V token ids, a stack of recurrent layers, a linear head back to V logits.

    Parameters
    ----------
    vocabulary
        V, the number of ids.
    cell
        A key of `CELLS`.
    embedding, hidden, layers
        E, H and L.
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
        embedding: int = 128,
        hidden: int = 192,
        layers: int = 1,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
        ops: ModuleType = functional,
    ) -> None:
        self.kind, self.gates = CELLS[cell]
        self.vocabulary, self.embedding, self.hidden, self.layers = vocabulary, embedding, hidden, layers
        self.ops = ops
        shapes = self._shapes()
        self.parameters = np.zeros(sum(map(math.prod, shapes.values())), dtype)
        self.gradients = np.zeros_like(self.parameters)
        self.first_bias = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
        self._views = self._slice(self.parameters)
        self._gradient_views = self._slice(self.gradients)
        if rng is not None:
            self._initialise(rng)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        v, e, h, gh = self.vocabulary, self.embedding, self.hidden, self.gates * self.hidden
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (v, e)}
        for layer in range(self.layers):
            shapes |= {f"weight_ih_l{layer}": (gh, h if layer else e), f"weight_hh_l{layer}": (gh, h)}
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
        return views

    def _table(self) -> LinearForward:
        """What each character adds to the gates of the first layer: y (V, G*H)."""
        table: LinearForward = self.ops.linear_forward(
            self._views["embedding.weight"], self._views["weight_ih_l0"]
        )
        return table

    def stack(self) -> list[list[CellParams]]:
        """The recurrent layers as `stack_forward` and `pack` take them, the first one reading ids."""
        return self._stack(self._table().y)

    def _stack(self, table: Array) -> list[list[CellParams]]:
        """The fast layout for ids: w_ih is a transposed view of the table, a row a character."""
        (_, w_hh, b_ih, b_hh), *others = (self._layer(self._views, layer) for layer in range(self.layers))
        layers: list[CellParams] = [(table.T, w_hh, b_ih, b_hh), *others]
        return [[layer] for layer in layers]

    @staticmethod
    def _layer(views: Mapping[str, Array], layer: int) -> tuple[Array, Array, Array, Array]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w_ih, w_hh, b_ih, b_hh = (views[f"{name}_l{layer}"] for name in names)
        return w_ih, w_hh, b_ih, b_hh

    def _initialise(self, rng: np.random.Generator) -> None:
        """PyTorch's defaults, but w_hh orthogonal, biases at zero and the forget gate open."""
        for name, view in self._views.items():
            if name == "embedding.weight":
                view[...] = rng.standard_normal(view.shape)
            elif name.startswith("weight_hh"):
                init.orthogonal(view, rng, gates=self.gates)
            elif view.ndim == 2:
                init.uniform(view, rng, self.hidden)
            elif name.startswith("bias_ih") and self.kind == "lstm":
                init.forget_gate_bias(view)

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
        table, embedded = self._table()
        y, state, saved = ops.stack_forward(
            self.kind, inputs, self._stack(table), state, dropout=dropout, rng=key
        )
        loss, head = ops.linear_cross_entropy_forward(
            y, self._views["head.weight"], self._views["head.bias"], targets
        )
        out = {"dw": grads["head.weight"], "db": grads["head.bias"]}
        dy = ops.linear_cross_entropy_backward(None, head, out=out).dh
        for layer, (found,) in enumerate(ops.stack_backward(dy, saved, needs={"params"}).params):
            for view, gradient in zip(self._layer(grads, layer), found, strict=True):
                if view is grads["weight_ih_l0"]:
                    out = {"dx": grads["embedding.weight"], "dw": view}
                    ops.linear_backward(np.ascontiguousarray(gradient.T), embedded, out=out)
                else:
                    view[...] = gradient
        return float(loss), state

    def loss(self, inputs: Array, targets: Array, state: State | None = None) -> tuple[float, State]:
        """Summed loss in nats over targets that are not -100, and the state after; nothing is saved."""
        y, state, _ = self.ops.stack_forward(self.kind, inputs, self.stack(), state, save=False)
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
