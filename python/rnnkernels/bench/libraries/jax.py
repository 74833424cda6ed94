"""JAX: lax.scan under jit, the input projection one product before the loop, weights transposed as in JAX.

Differentiated by vjp, and once more with dw_hh as one product after the loop, where vjp adds up an outer
product a step; each with the loop unrolled and not.  Calls run on the calling thread, which is faster than a
thread of JAX's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

from ...testing import Array
from ..grid import Row
from .base import Way


class Jax:
    """On the CPU; its threads are as many as the CPUs that the process may use."""

    def __init__(self, threads: int) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.version: str = jax.__version__

    def ways(self, row: Row) -> dict[str, Way]:
        """Each form of the computation, unrolled four times and not."""
        if row.dtype not in ("float32", "bfloat16"):
            return {}
        problem = row.problem()
        valid = None
        if problem.lengths is not None:
            valid = (np.arange(row.T)[:, None] < problem.lengths)[..., None]  # (T, B, 1)
        numbers = (problem.x, transposed(problem.params), problem.dy)
        x, params, dy = jax.tree.map(lambda array: jnp.asarray(array, row.dtype), numbers)
        valid = jax.device_put(valid)

        def way(compute: Callable[..., Any], unroll: int, *arguments: Any) -> Way:
            compiled = jax.jit(compute, static_argnames=("cell", "unroll"))
            return Way(
                lambda: jax.block_until_ready(compiled(*arguments, cell=row.cell, unroll=unroll)),
                _arrays,
            )

        ways = {}
        for unroll in (1, 4) if row.T >= 4 else (1,):
            name = f"scan, unroll {unroll}"
            if row.training:
                ways[name] = way(training, unroll, x, params, valid, dy)
                ways[f"{name}, dw_hh after it"] = way(training_dw_hh_last, unroll, x, params, valid, dy)
            else:
                ways[name] = way(inference, unroll, x, params, valid)
        return ways


def transposed(params: Any) -> Any:
    """Weights, or their gradients, from (G*H, columns) to (columns, G*H), or back."""
    return [[(w_ih.T, w_hh.T, b_ih, b_hh) for w_ih, w_hh, b_ih, b_hh in layer] for layer in params]


def _arrays(result: Any) -> list[Array]:
    y, states, *gradients = result
    turned = [(dx, transposed(params)) for dx, params in gradients]
    return [np.asarray(part, np.float32) for part in jax.tree.leaves((y, states, turned))]


def inference(x: Any, params: Any, valid: Any, *, cell: str, unroll: int) -> Any:
    """Returns y and the last states."""
    y, (states, _) = stack(x, params, valid, None, cell, unroll)
    return y, states


def training(x: Any, params: Any, valid: Any, dy: Any, *, cell: str, unroll: int) -> Any:
    """Returns y, the last states, dx and the gradients of the parameters."""

    def forward(x: Any, params: Any) -> Any:
        return stack(x, params, valid, None, cell, unroll)

    y, vjp, (states, _) = jax.vjp(forward, x, params, has_aux=True)
    return y, states, vjp(dy)


def training_dw_hh_last(x: Any, params: Any, valid: Any, dy: Any, *, cell: str, unroll: int) -> Any:
    """The same; the gradient of hg, which dw_hh and db_hh are made of, is that of a nudge added to it."""

    def forward(x: Any, inputs: Any, nudges: Any) -> Any:
        joined = [
            [(w_ih, w_hh, b_ih, b_hh) for (w_ih, b_ih), (_, w_hh, _, b_hh) in zip(*pair, strict=True)]
            for pair in zip(inputs, params, strict=True)
        ]
        return stack(x, joined, valid, nudges, cell, unroll)

    inputs = [[(w_ih, b_ih) for w_ih, _, b_ih, _ in layer] for layer in params]
    nudges = [[jnp.zeros((*x.shape[:2], len(b_hh)), x.dtype) for _, _, _, b_hh in layer] for layer in params]
    y, vjp, (states, outputs) = jax.vjp(forward, x, inputs, nudges, has_aux=True)
    dx, dinputs, dnudges = vjp(dy)
    grads: list[list[Any]] = []
    for layer in zip(dinputs, dnudges, outputs, strict=True):
        grads.append([])
        for direction, ((dw_ih, db_ih), dhg, h) in enumerate(zip(*layer, strict=True)):
            zero = jnp.zeros_like(h[:1])
            h_prev = jnp.concatenate([h[1:], zero] if direction else [zero, h[:-1]])
            grads[-1].append((dw_ih, jnp.einsum("tbh,tbg->hg", h_prev, dhg), db_ih, dhg.sum((0, 1))))
    return y, states, (dx, grads)


def stack(x: Any, params: Any, valid: Any, nudges: Any, cell: str, unroll: int) -> Any:
    """Returns y and, beside it, the last states (L*D, B, H) and the outputs [layer][direction]."""
    states: list[Any] = []
    outputs: list[list[Any]] = []
    for number, directions in enumerate(params):
        outputs.append([])
        for direction, weights in enumerate(directions):
            nudge = None if nudges is None else nudges[number][direction]
            state, y = run(x, weights, nudge, valid, CELLS[cell], bool(direction), unroll)
            states.append(state)
            outputs[-1].append(y)
        x = jnp.concatenate(outputs[-1], -1) if len(directions) > 1 else outputs[-1][0]
    return x, (tuple(map(jnp.stack, zip(*states, strict=True))), outputs)


def run(
    x: Any, weights: Any, nudge: Any, valid: Any, cell: Callable[..., Any], reverse: bool, unroll: int
) -> Any:
    """One layer in one direction: the last state, and y."""
    w_ih, w_hh, b_ih, b_hh = weights
    xg = x @ w_ih + b_ih  # (T, B, G*H)

    def step(state: Any, inputs: Any) -> Any:
        xg, nudge, valid = inputs
        hg = state[0] @ w_hh + b_hh
        new = cell(state, xg, hg if nudge is None else hg + nudge)
        if valid is None:
            return new, new[0]
        new = tuple(jnp.where(valid, *pair) for pair in zip(new, state, strict=True))
        return new, jnp.where(valid, new[0], 0)

    zeros = jnp.zeros((x.shape[1], len(w_hh)), x.dtype)  # (B, H)
    states = (zeros, zeros) if cell is lstm else (zeros,)
    return jax.lax.scan(step, states, (xg, nudge, valid), reverse=reverse, unroll=unroll)


def lstm(state: Any, xg: Any, hg: Any) -> Any:
    """Next h and c."""
    _, c = state
    i, f, g, o = jnp.split(xg + hg, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(state: Any, xg: Any, hg: Any) -> Any:
    """Next h."""
    (h,) = state
    (xr, xz, xn), (hr, hz, hn) = jnp.split(xg, 3, axis=-1), jnp.split(hg, 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (n + z * (h - n),)


def rnn(state: Any, xg: Any, hg: Any) -> Any:
    """Next h."""
    return (jnp.tanh(xg + hg),)


CELLS = {"lstm": lstm, "gru": gru, "rnn": rnn}
