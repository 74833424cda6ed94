"""Central differences: the arbiter of every gradient in the tests, in float64.

A gradient is checked element by element on small problems.  With a step of 1e-5 the truncation of f''' and
the rounding of f both leave about 1e-9, so that the tolerance of 1e-7 passes only what is right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rnnkernels.types import Array

STEP = 1e-5
TOLERANCE = 1e-7


def central_differences(f: Callable[[], float], a: Array) -> Array:
    """df/da by moving each element of `a`, in place, a step up and a step down."""
    gradient = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        value = a[index]
        a[index] = value + STEP
        above = f()
        a[index] = value - STEP
        below = f()
        a[index] = value
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def assert_gradient(got: Array | None, f: Callable[[], float], a: Array, name: str) -> None:
    """Assert that `got` is df/da, relative to the largest element (or to 1, for small gradients)."""
    want = central_differences(f, a)
    assert got is not None, f"{name}: expected a gradient, got None"
    assert got.shape == a.shape, f"{name}: expected shape {a.shape}, got {got.shape}"
    error = np.abs(got - want).max(initial=0) / max(1.0, np.abs(want).max(initial=0))
    assert error <= TOLERANCE, f"{name}: {error:.2g} away from central differences"
