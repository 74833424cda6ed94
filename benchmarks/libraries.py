"""What peers.py compares: rnnkernels, PyTorch and JAX, each in its fastest ways to compute one row.

Equal numbers go in, and the results come out as NumPy arrays in one order.  A peer is imported where it is
made, so that one that is not installed is missed by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

import rnnkernels as rk
from rnnkernels.testing import CELL_KINDS, Array, CellCase, CellProblem

KINDS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # here -> in rnnkernels.testing

Call = Callable[[], Any]


class Row(NamedTuple):
    """One row of the table."""

    cell: str
    shape: tuple[int, int, int, int]  # T, B, I, H
    mode: str

    def __str__(self) -> str:
        return f"{self.cell} {','.join(map(str, self.shape))} {self.mode}"

    @property
    def gates(self) -> int:
        return CELL_KINDS[KINDS[self.cell]][2]

    def problem(self) -> CellProblem:
        """The same numbers in every process."""
        return CellCase(*self.shape, state=False).problem(KINDS[self.cell], "float32")


class Library(Protocol):
    """What is compared: the ways in which it computes a row, and their results as NumPy arrays in one order.

    That is y, h_n and, of an LSTM, c_n; in training then dx, dw_ih, dw_hh, db_ih, db_hh.
    """

    version: str

    def __init__(self, threads: int) -> None: ...

    def ways(self, row: Row) -> dict[str, Call]: ...

    def arrays(self, result: Any) -> list[Array]: ...


class RnnKernels:
    """Level 0."""

    def __init__(self, threads: int) -> None:
        rk.set_num_threads(threads)
        self.version = rk.__version__

    def ways(self, row: Row) -> dict[str, Call]:
        problem = row.problem()
        forward, backward = (getattr(rk, f"{row.cell}_{name}") for name in ("forward", "backward"))
        arguments, dy = problem.arguments, problem.cotangents["dy"]

        def inference() -> Any:
            return forward(**arguments, save=False), ()

        def training() -> Any:
            result = forward(**arguments)
            return result, backward(dy, result.saved)

        return {"level 0": training if row.mode == "training" else inference}

    def arrays(self, result: Any) -> list[Array]:
        outputs, gradients = result
        return [*outputs[:-1], *gradients[:5]]


class PyTorch:
    """nn.LSTM, nn.GRU, nn.RNN, with oneDNN, which is the default, and without."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.version: str = torch.__version__

    def ways(self, row: Row) -> dict[str, Call]:
        torch, (_, _, I, H) = self.torch, row.shape
        problem = row.problem()
        layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[row.cell](I, H)
        names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
        layer.load_state_dict(
            {name: torch.from_numpy(problem.arguments[ours]) for ours, name in names.items()}
        )
        x, dy = torch.from_numpy(problem.arguments["x"]), torch.from_numpy(problem.cotangents["dy"])
        x.requires_grad_(row.mode == "training")
        inputs = [x, *(getattr(layer, name) for name in names.values())]

        def inference() -> Any:
            with torch.inference_mode():
                return *layer(x), ()

        def training() -> Any:
            y, state = layer(x)
            return y, state, torch.autograd.grad(y, inputs, dy)

        def way(onednn: bool) -> Call:
            def call() -> Any:
                torch.backends.mkldnn.enabled = onednn
                return training() if row.mode == "training" else inference()

            return call

        return {"oneDNN": way(True), "no oneDNN": way(False)}

    def arrays(self, result: Any) -> list[Array]:
        y, state, gradients = result
        states = state if isinstance(state, tuple) else (state,)
        return [part.detach().numpy() for part in (y, *(layers[0] for layers in states), *gradients)]


class Jax:
    """lax.scan under jit, the input projection one product before the loop.

    Differentiated by vjp, and once more with dw_hh as one product after the loop, where vjp adds up an
    outer product a step; each with the loop unrolled and not.  Calls run on the calling thread, which is
    faster here than a thread of JAX's own.
    """

    def __init__(self, threads: int) -> None:
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax: Any = jax
        self.version: str = jax.__version__  # its threads are as many as the CPUs that the process may use

    def ways(self, row: Row) -> dict[str, Call]:
        arrays = {
            name: self.jax.device_put(value)
            for name, value in row.problem().arguments.items()
            if isinstance(value, np.ndarray)
        }
        dy = self.jax.device_put(row.problem().cotangents["dy"])
        forms = {"scan": self.training, "scan, dw_hh after it": self.training_with_dw_hh_after_it}

        def way(function: Callable[..., Any], *arguments: Any) -> Call:
            compiled = self.jax.jit(function, static_argnames=("cell", "unroll"))
            return lambda: self.jax.block_until_ready(
                compiled(*arguments, cell=row.cell, unroll=unroll, **arrays)
            )

        ways = {}
        for unroll in (1, 4):
            if row.mode == "inference":
                ways[f"scan, unroll {unroll}"] = way(self.forward)
            else:
                ways |= {f"{name}, unroll {unroll}": way(form, dy) for name, form in forms.items()}
        return ways

    def arrays(self, result: Any) -> list[Array]:
        return [np.asarray(part) for part in self.jax.tree.leaves(result)]

    def forward(
        self, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nudge: Any = None, *, cell: str, unroll: int
    ) -> Any:
        """Returns y and the last state; `nudge` is added to hg, for its gradient."""
        jax, jnp = self.jax, self.jax.numpy
        next_state = getattr(self, cell)
        xg = x @ w_ih.T + b_ih  # (T, B, G*H)

        def step(state: Any, inputs: Any) -> Any:
            xg, nudge = inputs
            hg = state[0] @ w_hh.T + b_hh
            state = next_state(state, xg, hg if nudge is None else hg + nudge)
            return state, state[0]

        zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)  # (B, H)
        states = (zeros, zeros) if cell == "lstm" else (zeros,)
        state, y = jax.lax.scan(step, states, (xg, nudge), unroll=unroll)
        return y, state

    def training(self, dy: Any, *, cell: str, unroll: int, **arrays: Any) -> Any:
        def forward(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
            return self.forward(x, w_ih, w_hh, b_ih, b_hh, cell=cell, unroll=unroll)

        names = ("x", "w_ih", "w_hh", "b_ih", "b_hh")
        y, vjp, state = self.jax.vjp(forward, *(arrays[name] for name in names), has_aux=True)
        return y, state, vjp(dy)

    def training_with_dw_hh_after_it(
        self, dy: Any, *, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, cell: str, unroll: int
    ) -> Any:
        def forward(x: Any, w_ih: Any, b_ih: Any, nudge: Any) -> Any:
            return self.forward(x, w_ih, w_hh, b_ih, b_hh, nudge, cell=cell, unroll=unroll)

        jnp = self.jax.numpy
        nudge = jnp.zeros((*x.shape[:2], len(w_hh)), x.dtype)  # (T, B, G*H)
        y, vjp, state = self.jax.vjp(forward, x, w_ih, b_ih, nudge, has_aux=True)
        dx, dw_ih, db_ih, dhg = vjp(dy)
        h_prev = jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]])
        return y, state, (dx, dw_ih, jnp.einsum("tbg,tbh->gh", dhg, h_prev), db_ih, dhg.sum((0, 1)))

    def lstm(self, state: Any, xg: Any, hg: Any) -> Any:
        sigmoid, tanh = self.jax.nn.sigmoid, self.jax.numpy.tanh
        _, c = state
        i, f, g, o = self.jax.numpy.split(xg + hg, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def gru(self, state: Any, xg: Any, hg: Any) -> Any:
        sigmoid, split = self.jax.nn.sigmoid, self.jax.numpy.split
        (h,) = state
        (xr, xz, xn), (hr, hz, hn) = split(xg, 3, axis=-1), split(hg, 3, axis=-1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        n = self.jax.numpy.tanh(xn + r * hn)
        return (n + z * (h - n),)

    def rnn(self, state: Any, xg: Any, hg: Any) -> Any:
        return (self.jax.numpy.tanh(xg + hg),)


LIBRARIES: dict[str, type[Library]] = {"rnnkernels": RnnKernels, "PyTorch": PyTorch, "JAX": Jax}
