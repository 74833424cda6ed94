"""How far a kernel may be from the reference, in one table, and the measure that the table is in.

Used by `rnnkernels check`, by the benchmarks (a result is checked before it is timed) and by the test
suite.  An error is relative to the largest magnitude of the wanted array: a gradient entry that is a sum
of cancelling terms has no small relative error of its own, in any order of summation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

Kind = Literal["forward", "gradient"]


class Tolerance(NamedTuple):
    """What a dtype may lose, in eps of the dtype, relative to the largest magnitude of an array."""

    forward: int
    gradient: int


# The contract, for T <= 1000 and weights of PyTorch's default size, is 1e-5 and 1e-4 for float32 and
# 1e-13 and 1e-12 for float64; these are its multiples of eps, rounded down.
TOLERANCES = {
    "float32": Tolerance(forward=80, gradient=800),
    "float64": Tolerance(forward=450, gradient=4500),
}


def budget(dtype: DTypeLike, kind: Kind) -> float:
    """Largest accepted `relative_error` of a result of `dtype`.

    Parameters
    ----------
    dtype
        float32 or float64.
    kind
        "forward" for y, h_n, c_n and losses, "gradient" for everything a backward returns.

    Raises
    ------
    KeyError
        For a dtype that the table does not list.
    """
    dtype = np.dtype(dtype)
    return float(getattr(TOLERANCES[dtype.name], kind) * np.finfo(dtype).eps)


def relative_error(got: ArrayLike, want: ArrayLike) -> float:
    """Largest absolute difference over the largest magnitude of `want`.

    NaN and infinities must stand in the same places with the same signs: otherwise the error is inf.  An
    array that should be all zeros has error 0 or inf, and so has a wrong shape (inf): never an exception,
    so that a report can go on.
    """
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if got.shape != want.shape:
        return float("inf")
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(got[finite] - want[finite]).max(initial=0.0)
    if difference == 0.0:
        return 0.0
    largest = np.abs(want[finite]).max(initial=0.0)
    if largest == 0.0 or not np.isfinite(difference):
        return float("inf")
    return float(difference / largest)


def share_of_budget(got: ArrayLike, want: ArrayLike, *, dtype: DTypeLike, kind: Kind) -> float:
    """`relative_error` as a share of the `budget` of `dtype`: at most 1.0 passes."""
    return relative_error(got, want) / budget(dtype, kind)


def assert_within_budget(got: ArrayLike, want: ArrayLike, kind: Kind, *, name: str = "result") -> None:
    """Assert that `got`, whose dtype sets the budget, is `want` (usually float64) to within it.

    Raises
    ------
    AssertionError
        Names `name`, the error, the budget and the share of it.
    """
    dtype = np.asarray(got).dtype
    error, limit = relative_error(got, want), budget(dtype, kind)
    if not error <= limit:
        raise AssertionError(
            f"{name}: relative error {error:.3g} of shape {np.shape(got)} against {np.shape(want)} passes the "
            f"{kind} budget {limit:.3g} of {dtype.name} ({error / limit:.3g} of it)"
        )
