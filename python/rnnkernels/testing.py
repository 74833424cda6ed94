"""How far a kernel may be from the reference, in one table, the measure it is in, and cases to measure.

Used by `rnnkernels check`, by the benchmarks (a result is checked before it is timed) and by the test
suite.  An error is relative to the largest magnitude of the wanted array: a gradient entry that is a sum
of cancelling terms has no small relative error of its own, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]
Kind = Literal["forward", "gradient"]


class Tolerance(NamedTuple):
    """What a dtype may lose, in eps of the dtype, relative to the largest magnitude of an array."""

    forward: int
    gradient: int


# The contract, for T <= 1000 and weights of PyTorch's default size, is 1e-5 and 1e-4 for float32 and
# 1e-13 and 1e-12 for float64; these are its multiples of eps, rounded down.  In 16 bits a rounding
# alone is up to half an eps; gradients are measured from what forward kept, which had been rounded already.
TOLERANCES = {
    "float32": Tolerance(forward=80, gradient=800),
    "float64": Tolerance(forward=450, gradient=4500),
    "bfloat16": Tolerance(forward=2, gradient=1),
    "float16": Tolerance(forward=2, gradient=1),
}
EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-7, "float16": 2.0**-10}

# Of a problem in 16 bits these are float32 all the same: c, losses, and gradients of them.
_WIDE = {"c", "c0", "c_n", "cx", "dc0", "dc_n", "dcx", "loss", "dloss"}


def dtype_of(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype of an argument or result, by its name, of a problem in `dtype`."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 and name.split(".")[-1] in _WIDE else dtype


def budget(dtype: DTypeLike, kind: Kind) -> float:
    """Largest accepted `relative_error` of a result of `dtype`.

    Parameters
    ----------
    dtype
        float32, float64, bfloat16 or float16.
    kind
        "forward" for y, h_n, c_n and losses, "gradient" for everything a backward returns.

    Raises
    ------
    KeyError
        For a dtype that the table does not list.
    """
    name = np.dtype(dtype).name
    return float(getattr(TOLERANCES[name], kind) * EPS[name])


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


def assert_within_budget(
    got: ArrayLike, want: ArrayLike, kind: Kind, *, name: str = "result", dtype: DTypeLike | None = None
) -> None:
    """Assert that `got` is `want` (usually float64) to within the budget of `dtype`, by default its own.

    Raises
    ------
    AssertionError
        Names `name`, the error, the budget and the share of it.
    """
    dtype = np.asarray(got).dtype if dtype is None else np.dtype(dtype)
    error, limit = relative_error(got, want), budget(dtype, kind)
    if not error <= limit:
        raise AssertionError(
            f"{name}: relative error {error:.3g} of {dtype.name} {np.shape(got)} against {np.shape(want)} "
            f"passes the {kind} budget {limit:.3g} ({error / limit:.3g} of it)"
        )


# -- cases -------------------------------------------------------------------------------------------------

# Kind of a cell, as the stack names it -> the name its level 0 functions begin with, options of forward,
# number of gates.
CELL_KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "lstm": ("lstm", {}, 4),
    "gru": ("gru", {}, 3),
    "gru_reset_before": ("gru", {"reset_after": False}, 3),
    "rnn_tanh": ("rnn", {"nonlinearity": "tanh"}, 1),
    "rnn_relu": ("rnn", {"nonlinearity": "relu"}, 1),
}


@dataclass(frozen=True)
class CellCase:
    """A problem for one layer of any cell, drawn from a seed; padding holds NaN and ids out of range.

    Attributes
    ----------
    T, B, I, H
        Sizes.
    ids
        Whether x is token ids in [0, I).
    ragged
        Whether the sequences have lengths of their own, 0 and T among them.
    bias
        "vector" for both biases, "sequence" for a b_ih per sequence, "none".
    state
        Whether a state comes in, and gradients of the last one.
    """

    T: int
    B: int
    I: int
    H: int
    reverse: bool = False
    ragged: bool = False
    ids: bool = False
    bias: str = "vector"
    state: bool = True

    def __str__(self) -> str:
        marks = [name for name in ("reverse", "ragged", "ids") if getattr(self, name)]
        if self.bias != "vector":
            marks.append("no bias" if self.bias == "none" else "bias per sequence")
        return f"T={self.T} B={self.B} I={self.I} H={self.H}" + "".join(f", {mark}" for mark in marks)

    def problem(self, kind: str, dtype: DTypeLike, seed: int = 0) -> CellProblem:
        """The arguments for a cell, rounded to `dtype`, weights of PyTorch's default size."""
        T, B, I, H = self.T, self.B, self.I, self.H
        rng = np.random.default_rng(seed)
        _, options, gates = CELL_KINDS[kind]

        def normal(*shape: int, name: str = "") -> Array:
            return rng.standard_normal(shape).astype(dtype_of(name, dtype))

        def weight(*shape: int) -> Array:
            return np.asarray(rng.uniform(-1.0, 1.0, shape) / np.sqrt(H), dtype)

        arguments: dict[str, Any] = {
            "x": rng.integers(I, size=(T, B)) if self.ids else normal(T, B, I),
            "w_ih": weight(gates * H, I),
            "w_hh": weight(gates * H, H),
        }
        if self.bias != "none":
            arguments["b_ih"] = weight(*([B] if self.bias == "sequence" else []), gates * H)
            arguments["b_hh"] = weight(gates * H)
        states = ("h", "c") if kind == "lstm" else ("h",)
        if self.state:
            arguments |= {f"{name}0": normal(B, H, name=f"{name}0") for name in states}
        lengths = rng.integers(T + 1, size=B) if self.ragged else np.full(B, T)
        if self.ragged:
            lengths[0], lengths[-1] = 0, T
            arguments["lengths"] = lengths
        dy = normal(T, B, H)
        padding = np.arange(T)[:, None] >= lengths  # (T, B)
        arguments["x"][padding] = -7 if self.ids else np.nan
        dy[padding] = np.nan
        cotangents = {"dy": dy}
        if self.state:
            cotangents |= {f"d{name}_n": normal(B, H, name=f"d{name}_n") for name in states}
        return CellProblem(kind, arguments | options | {"reverse": self.reverse}, cotangents)


@dataclass(frozen=True)
class CellProblem:
    """Arguments of a cell's forward and gradients for its backward, by name."""

    kind: str
    arguments: dict[str, Any]
    cotangents: dict[str, Array]

    def forward(self, ops: ModuleType) -> Any:
        """The forward of `ops`, which is `rnnkernels` or `rnnkernels.reference`."""
        return getattr(ops, f"{CELL_KINDS[self.kind][0]}_forward")(**self.arguments)

    def backward(self, ops: ModuleType, saved: object) -> Any:
        """The backward of `ops`; `saved` may come from the forward of either."""
        cotangents = dict(self.cotangents)
        dy = cotangents.pop("dy")
        return getattr(ops, f"{CELL_KINDS[self.kind][0]}_backward")(dy, saved, **cotangents)

    def as_float64(self) -> CellProblem:
        """The same numbers for the reference to compute the truth from."""
        return CellProblem(self.kind, as_float64(self.arguments), as_float64(self.cotangents))


def as_float64(value: Any) -> Any:
    """`value` with every array of numbers in it widened, through mappings, tuples, lists and dataclasses."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "iub" else value.astype(np.float64)
    if isinstance(value, Mapping):
        return {name: as_float64(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(as_float64(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: as_float64(getattr(value, field.name)) for field in fields(value)}
        )
    return value


def named_arrays(result: Any) -> dict[str, Array]:
    """The arrays of a result tuple by name, those that a forward saved for backward included."""
    arrays: dict[str, Array] = {}
    for name, value in result._asdict().items():
        if name == "saved" and value is not None:
            owned = {field.name for field in fields(value)} & {"gates", "c", "h"}
            arrays |= {f"saved.{field}": getattr(value, field) for field in sorted(owned)}
        elif value is not None:
            arrays[name] = value
    return arrays
