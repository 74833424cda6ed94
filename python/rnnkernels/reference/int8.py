"""What a pack with int8 weights computes: the reference itself, on rounded operands.

A product of int8 is that of two matrices whose rows were rounded first, summed without error.  So a stack of
int8 is the stack, on weights that round whatever they are multiplied with.  Twin of csrc/cpu/int8.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Array, Lengths, StackForward, StackParams, State
from .stack import stack_forward

_MOST = np.float32(127)
_NEGLIGIBLE = np.float32(2.0**-100)


def round_to_int8(a: Array) -> tuple[Array, Array]:
    """Round each row to integers of at most 127 in magnitude and a float32 step: a is about q * step.

    step = max|row| / 127 and q = rint(row * (127 / max|row|)), in float32, ties to even.  A row of which no
    magnitude reaches 2**-100 is a row of zeros.  One that holds NaN or infinity has the step NaN and q = 0.

    Parameters
    ----------
    a
        (..., K) floats.

    Returns
    -------
    q, step
        (..., K) int8 and (..., 1) float32.
    """
    a = np.asarray(a, np.float32)
    largest = np.abs(a).max(axis=-1, keepdims=True, initial=0)
    finite, zero = np.isfinite(largest), largest < _NEGLIGIBLE
    usable = np.where(finite & ~zero, largest, 1)
    q = np.where(finite & ~zero, np.rint(np.where(finite, a, 0) * (_MOST / usable)), 0).astype(np.int8)
    step = np.where(finite, np.where(zero, 0, usable / _MOST), np.nan)
    return q, step.astype(np.float32)


def int8_stack(
    kind: str, x: Array, params: StackParams, hx: State | None = None, *, lengths: Lengths | None = None
) -> StackForward:
    """``rnnkernels.pack(kind, params, "int8").forward``, defined: ``stack_forward`` on rounded operands.

    Rounded are the rows of w_ih and w_hh, once, and each row of x and of the state (in a GRU with
    reset_after=False also of r * h) before it meets them; token ids choose rounded columns.  Biases, cells'
    equations and states stay as they are.

    Parameters
    ----------
    kind, x, params, hx, lengths
        As in ``stack_forward``.  In float64 the products are exact, as the kernel's are.

    Returns
    -------
    StackForward
        y, hx, and None for saved.
    """
    rounded: Any = [
        [
            (_rounded(w_ih).view(_Rounding), _rounded(w_hh).view(_Rounding), b_ih, b_hh)
            for w_ih, w_hh, b_ih, b_hh in layer
        ]
        for layer in params
    ]
    return stack_forward(kind, x, rounded, hx, lengths=lengths, save=False)


class _Rounding(np.ndarray):
    """A matrix that rounds the rows it is multiplied with: ``rows @ matrix``."""

    def __rmatmul__(self, rows: Any, /) -> Any:
        return _rounded(rows) @ self.view(np.ndarray)


def _rounded(a: Array) -> Array:
    """q * step, in the dtype of a."""
    q, step = round_to_int8(a)
    return np.asarray(q.astype(a.dtype) * step.astype(a.dtype))
