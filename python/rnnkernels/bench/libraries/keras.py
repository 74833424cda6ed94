"""Keras: its layers on JAX, as functions of their weights under jit.

Keras is batch-major, holds weights transposed, gates of a GRU in the order z, r, n, and one bias where two
would only be added.
"""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import keras
import numpy as np

from ...testing import Array
from ..grid import Row
from .base import Way, reordered

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}  # ours, in the order of Keras; its own inverse


class Keras:
    """On the CPU; its threads are as many as the CPUs that the process may use."""

    def __init__(self, threads: int) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.version: str = keras.__version__

    def ways(self, row: Row) -> dict[str, Way]:
        """One."""
        if row.dtype != "float32":
            return {}
        problem = row.problem()
        layers = [_layer(row, I, params) for I, params in zip(row.input_sizes(), problem.params, strict=True)]
        variables = [[variable.value for variable in layer.trainable_variables] for layer in layers]
        others = [[variable.value for variable in layer.non_trainable_variables] for layer in layers]
        x, dy = (jax.device_put(a.swapaxes(0, 1).copy()) for a in (problem.x, problem.dy))
        mask = None
        if problem.lengths is not None:
            mask = jax.device_put(np.arange(row.T) < problem.lengths[:, None])  # (B, T)

        def forward(x: Any, variables: Any) -> Any:
            states: list[Any] = []
            for layer, own, rest in zip(layers, variables, others, strict=True):
                (x, *last), _ = layer.stateless_call(own, rest, x, mask=mask)
                states += last
            return x, states

        def training(x: Any, variables: Any, dy: Any) -> Any:
            y, vjp, states = jax.vjp(forward, x, variables, has_aux=True)
            return y, states, *vjp(dy)

        compiled = jax.jit(training if row.training else forward)
        arguments = (x, variables, dy) if row.training else (x, variables)
        return {
            "jit on JAX": Way(
                lambda: jax.block_until_ready(compiled(*arguments)), lambda result: _arrays(row, *result)
            )
        }


def _layer(row: Row, input_size: int, params: list[tuple[Array, Array, Array, Array]]) -> Any:
    """One layer of the stack, with the weights of its directions."""
    layer = LAYERS[row.cell](row.H, return_sequences=True, return_state=True, zero_output_for_mask=row.ragged)
    if row.directions == 2:
        layer = keras.layers.Bidirectional(layer, merge_mode="concat")
    layer.build((row.B, row.T, input_size))
    weights: list[Array] = []
    for direction in params:
        w_ih, w_hh, b_ih, b_hh = (reordered(a, GATES[row.cell]) for a in direction)
        weights += [w_ih.T, w_hh.T, np.stack([b_ih, b_hh]) if row.cell == "gru" else b_ih + b_hh]
    for variable, value in zip(layer.trainable_variables, weights, strict=True):
        variable.assign(value)
    return layer


def _arrays(row: Row, y: Any, states: Any, dx: Any = None, grads: Any = ()) -> list[Array]:
    count = 2 if row.cell == "lstm" else 1  # states of a layer in one direction
    arrays = [np.asarray(y).swapaxes(0, 1)]
    arrays += [np.stack([np.asarray(part) for part in states[state::count]]) for state in range(count)]
    if dx is None:
        return arrays
    arrays.append(np.asarray(dx).swapaxes(0, 1))
    flat = [np.asarray(gradient) for gradient in chain.from_iterable(grads)]
    for kernel, recurrent, bias in zip(*[iter(flat)] * 3, strict=True):
        biases = bias if row.cell == "gru" else (bias, bias)  # one bias has the gradient of both
        arrays += [reordered(gradient, GATES[row.cell]) for gradient in (kernel.T, recurrent.T, *biases)]
    return arrays
