"""rnnkernels: stacks and, for inference, packed ones; and its references in NumPy, which are a peer.

Rows of other dtypes have its float32 kernels as another peer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np

from ... import __version__, functional, reference, set_num_threads
from ...testing import Array
from ..grid import Problem, Row
from .base import Way


class NumPy:
    """The references; their threads are those of NumPy's BLAS."""

    ops: ModuleType = reference

    def __init__(self, threads: int) -> None:
        self.version = np.__version__

    def ways(self, row: Row) -> dict[str, Way]:
        """One call forward, and one backward."""
        if row.dtype != "float32":
            return {}
        return self.stack(row, row.problem())

    def stack(self, row: Row, problem: Problem) -> dict[str, Way]:
        """The calls of a stack."""
        ops, x, params, lengths, dy = self.ops, problem.x, problem.params, problem.lengths, problem.dy

        def inference() -> Any:
            return ops.stack_forward(row.kind, x, params, lengths=lengths, save=False)[:2]

        def training() -> Any:
            y, hx, saved = ops.stack_forward(row.kind, x, params, lengths=lengths)
            return y, hx, ops.stack_backward(dy, saved)

        return {"stack": Way(training if row.training else inference, _arrays)}


class RnnKernels(NumPy):
    """The kernels."""

    ops = functional

    def __init__(self, threads: int) -> None:
        set_num_threads(threads)
        self.version = __version__

    def ways(self, row: Row) -> dict[str, Way]:
        """As the references; for inference on packed weights, too, and single steps as one streams them."""
        problem = row.problem()
        if row.dtype == "bfloat16":
            problem = _bfloat16(problem)
        ways = {} if row.dtype == "int8" else self.stack(row, problem)
        if row.training:
            return ways
        packed = functional.pack(row.kind, problem.params, "int8" if row.dtype == "int8" else None)
        ways["packed"] = Way(lambda: packed.forward(problem.x, lengths=problem.lengths), _arrays)
        if row.T == 1 and row.directions == 1:
            (x_t,) = problem.x
            ways["packed step"] = Way(
                lambda: packed.step(x_t), lambda result: _arrays((result[0][None], result[1]))
            )
        return ways


class Float32(RnnKernels):
    """The float32 kernels, where others are at work."""

    def ways(self, row: Row) -> dict[str, Way]:
        """Those of the float32 row."""
        return {} if row.dtype == "float32" else super().ways(replace(row, dtype="float32"))


def _bfloat16(problem: Problem) -> Problem:
    import ml_dtypes

    def stored(array: Array) -> Array:
        return array.astype(ml_dtypes.bfloat16)

    params = [
        [(stored(w_ih), stored(w_hh), stored(b_ih), stored(b_hh)) for w_ih, w_hh, b_ih, b_hh in layer]
        for layer in problem.params
    ]
    return replace(problem, x=stored(problem.x), params=params, dy=stored(problem.dy))


def _arrays(result: Any) -> list[Array]:
    y, hx, *gradients = result
    arrays = [y, *(hx if isinstance(hx, tuple) else (hx,))]
    for dx, _, params in gradients:
        arrays += [dx, *chain.from_iterable(chain.from_iterable(params))]
    return [array.astype(np.float32, copy=False) for array in arrays]
