"""What the tests of the kernels share: the kernels of this machine, problems for them, the truth in float64.

The truth is the reference computed in float64 from the very numbers the kernel sees.  The one subtlety is
where gradients are taken.  Those of rnn_relu are taken where the kernel's own forward stood: where a
pre-activation is nearly 0, float32 may stand on the other side of the corner.  Those of 16-bit arrays are,
too: 1 - h^2 of an h that was rounded near 1 is another number.  What both passes lose together test_half.py
compares with PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  which makes "bfloat16" a dtype of NumPy
import numpy as np

import rnnkernels
from rnnkernels import _core, functional, reference
from rnnkernels.testing import (
    CELL_KINDS,
    CellCase,
    CellProblem,
    Kind,
    as_float64,
    assert_within_budget,
    dtype_of,
    named_arrays,
)
from rnnkernels.types import Array

KINDS = tuple(CELL_KINDS)
FLOATS = ("float32", "float64")
HALVES = ("bfloat16", "float16")
DTYPES = (*FLOATS, *HALVES)
# RNNKERNELS_ISA picks one, as for the library; else all that this CPU runs
ISAS = [rnnkernels.info()["isa"]] if "RNNKERNELS_ISA" in os.environ else rnnkernels.info()["isas"]
VECTOR_ISAS = [isa for isa in ISAS if isa != "scalar"]


# extensions of avx512, which has the kernels of all other dtypes
BFLOAT16_ISAS = ("amx", "avx512bf16")


def isas_of_the_same_bits(dtype: str) -> list[str]:
    """Vector instruction sets; those that multiply bfloat16 as it is stored add in orders of their own."""
    return [isa for isa in VECTOR_ISAS if isa not in BFLOAT16_ISAS or dtype != "bfloat16"]


SANITIZED = os.environ.get("RNNKERNELS_SANITIZED", "")  # "address" or "thread" in tests/sanitize/run


class Kernel(NamedTuple):
    """A row of the kernel list."""

    name: str  # "lstm_forward_f32_avx512"
    operation: str  # a cell's kind, or a head
    dtype: str
    isa: str

    @property
    def stage(self) -> str:
        return "forward" if "_forward_" in self.name else "backward"


KERNELS = [row for row in (Kernel(*row) for row in _core.kernels()) if row.isa in ISAS]


def thinned(items: Iterable[Any], every: int = 7) -> list[Any]:
    """All of them, but under a sanitizer, 10 to 30 times slower, one of `every`."""
    return list(items)[:: every if SANITIZED else 1]


# -- cells -------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of arguments and cotangents, in place


def _keep(*names: str) -> Change:
    """Of the states, biases and gradients only these."""

    def change(arguments: dict[str, Any], cotangents: dict[str, Any]) -> None:
        for name in ("b_ih", "b_hh", "h0", "c0"):
            if name not in names:
                arguments.pop(name, None)
        for name in ("dy", "dh_n", "dc_n"):
            if name not in names:
                cotangents.pop(name, None)
        cotangents.setdefault("dy", None)

    return change


def _lengths(values: Callable[[int, int], Any]) -> Change:
    """Lengths from (T, B), in whatever type; the padding of the case stays NaN where it still is padding."""

    def change(arguments: dict[str, Any], cotangents: dict[str, Any]) -> None:
        T, B = arguments["x"].shape[:2]
        arguments["lengths"] = lengths = values(T, B)
        padding = np.arange(T)[:, None] >= np.asarray(lengths, dtype=np.int64)
        for array in (arguments["x"], cotangents["dy"]):
            array[~padding & np.isnan(array).any(axis=-1)] = 0.5
            array[padding] = np.nan

    return change


def _argument(name: str, make: Callable[[Array], Array]) -> Change:
    def change(arguments: dict[str, Any], cotangents: dict[str, Any]) -> None:
        arguments[name] = make(arguments[name])

    return change


CHANGES: dict[str, Change] = {
    "": lambda arguments, cotangents: None,
    "int32 ids": _argument("x", lambda x: x.astype(np.int32)),
    "table": _argument("w_ih", lambda w: np.ascontiguousarray(w.T).T),  # the fast layout for ids
    "equal ids": _argument("x", lambda x: np.where(x < 0, x, 0)),
    "only b_ih": _keep("b_ih", "dy"),
    "only b_hh": _keep("b_hh", "dy"),
    "only h0": _keep("h0", "dy"),
    "only c0": _keep("c0", "dy"),
    "only dh_n": _keep("b_ih", "b_hh", "dh_n"),
    "only dc_n": _keep("b_ih", "b_hh", "dc_n"),
    "only dy": _keep("dy"),
    "no gradient": _keep("b_ih", "b_hh", "h0", "c0"),
    "all empty": _lengths(lambda T, B: np.zeros(B, np.int64)),
    "all full": _lengths(lambda T, B: np.full(B, T, np.uint8)),
    "rising": _lengths(lambda T, B: [min(b, T) for b in range(B)]),
    "falling": _lengths(lambda T, B: tuple(max(T - b, 0) for b in range(B))),
    "one long": _lengths(lambda T, B: np.array([1] * (B - 1) + [T], np.int32)),
}


@dataclass(frozen=True)
class Case:
    """A problem of one layer, and a change to its arguments, by name."""

    cell: CellCase
    change: str = ""

    def __str__(self) -> str:
        return f"{self.cell}" + (f" ({self.change})" if self.change else "")

    def problem(self, kind: str, dtype: str) -> CellProblem:
        problem = self.cell.problem(kind, dtype)
        CHANGES[self.change](problem.arguments, problem.cotangents)
        if kind != "lstm":
            problem.cotangents.pop("dc_n", None)
        return problem


class Truth(NamedTuple):
    """A problem in the kernel's dtype, and what the reference makes of it in float64."""

    problem: CellProblem
    wide: CellProblem
    forward: Any
    backward: Any

    def gradients(self, saved: Any) -> Any:
        """The gradients wanted after the forward that kept `saved`."""
        if self.problem.kind != "rnn_relu" and self.problem.arguments["w_hh"].dtype.itemsize > 2:
            return self.backward
        return self.wide.backward(reference, as_float64(saved))


@cache
def truth(kind: str, case: Case, dtype: str) -> Truth:
    problem = case.problem(kind, dtype)
    wide = problem.as_float64()
    forward = wide.forward(reference)
    return Truth(problem, wide, forward, wide.backward(reference, forward.saved))


def assert_close(got: Any, want: Any, kind: Kind, where: object, dtype: str) -> None:
    """Every array of a result tuple, saved ones included, is of its dtype and within its budget of `want`."""
    results, wanted = named_arrays(got), named_arrays(want)
    assert results.keys() == wanted.keys(), where
    for name, result in results.items():
        assert result.dtype == dtype_of(name, dtype), f"{name} at {where}"
        assert_within_budget(result, wanted[name], kind, name=f"{name} at {where}", dtype=dtype)


def check_cell(kernel: Kernel, case: Case) -> None:
    """A row of the kernel list against the truth, in one case."""
    want = truth(kernel.operation, case, kernel.dtype)
    with rnnkernels.config(isa=kernel.isa):
        forward = want.problem.forward(functional)
        if kernel.stage == "forward":
            assert_close(forward, want.forward, "forward", case, kernel.dtype)
            return
        backward = want.problem.backward(functional, forward.saved)
    assert_close(backward, want.gradients(forward.saved), "gradient", case, kernel.dtype)


# Around the widths of the vectors (2, 4, 8, 16) and of a panel of two of them.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 37)


def _sizes() -> Iterator[Case]:
    for i, H in enumerate(WIDTHS):
        for j, B in enumerate(BATCHES):
            I = WIDTHS[(5 * i + 3 * j) % len(WIDTHS)]
            reverse, ragged = (i + j) % 3 == 0, (i + 2 * j) % 4 == 3
            yield Case(CellCase(1 + (i + j) % 4, B, I, H, reverse=reverse, ragged=ragged))
    for T, B, I, H in ((0, 3, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0), (0, 0, 0, 0)):
        yield Case(CellCase(T, B, I, H))


SOME_SIZES = ((1, 1, 1, 1), (5, 3, 7, 5), (6, 5, 16, 16), (3, 19, 9, 33), (7, 13, 3, 9), (4, 2, 31, 17))


def _ragged() -> Iterator[Case]:
    for size in SOME_SIZES:
        for reverse in (False, True):
            yield Case(CellCase(*size, reverse=reverse, ragged=True))
            for change in ("all empty", "all full", "rising", "falling", "one long"):
                yield Case(CellCase(*size, reverse=reverse, ragged=True), change)


def _ids() -> Iterator[Case]:
    for size in SOME_SIZES:
        for change in ("", "int32 ids", "table", "equal ids"):
            for ragged, reverse in ((False, False), (False, True), (True, True)):
                yield Case(CellCase(*size, ids=True, ragged=ragged, reverse=reverse), change)
    yield Case(CellCase(40, 9, 300, 17, ids=True, ragged=True, bias="sequence"), "table")


def _optional() -> Iterator[Case]:
    for size in SOME_SIZES:
        for change in (*(name for name in CHANGES if name.startswith("only")), "no gradient"):
            yield Case(CellCase(*size, ragged=True), change)
        yield Case(CellCase(*size, bias="none", state=False))
        for bias in ("sequence", "none"):
            for ragged, reverse in ((False, False), (False, True), (True, True)):
                yield Case(CellCase(*size, bias=bias, ragged=ragged, reverse=reverse))
        yield Case(CellCase(*size, bias="sequence", ids=True), "table")


def _chunks() -> Iterator[Case]:
    """Numbers of rows (t, b) below, at and above the 128 of forward's chunks and the 256 of backward's."""
    for T, B in (*((T, 1) for T in (127, 128, 129, 257, 513)), (64, 2), (65, 2), (43, 3), (26, 13), (52, 5)):
        yield Case(CellCase(T, B, 3, 5))
        yield Case(CellCase(T, B, 3, 5, ragged=B > 1, reverse=True))
    for T, B in ((3, 100), (2, 129), (1, 257), (5, 67), (4, 300)):
        for I, H in ((3, 5), (9, 17)):
            yield Case(CellCase(T, B, I, H))
            yield Case(CellCase(T, B, I, H, ragged=True, reverse=True, bias="sequence"))
            yield Case(CellCase(T, B, I, H, ragged=True, ids=True))


def _wide() -> Iterator[Case]:
    sizes = ((3, 1, 130, 257), (2, 5, 300, 257), (2, 2, 40, 520), (2, 4, 1030, 24), (3, 14, 64, 128))
    # dgates of which backward copies the columns it multiplies; in the second two threads' copies touch (RNN)
    many_gradients = ((4, 65, 3, 385), (2, 540, 3, 182))
    # more than 1024 terms a sum, which are taken in blocks: by one turn of rows, and by several
    many_terms = ((1, 14, 3, 1030), (2, 200, 1030, 260))
    for size in (*sizes, *many_gradients, *many_terms):
        yield Case(CellCase(*size))
        yield Case(CellCase(*size, ragged=True, reverse=True))


def _long() -> Iterator[Case]:
    yield Case(CellCase(1000, 2, 9, 17, ragged=True, reverse=True))


CELL_FORMS: dict[str, list[Case]] = {
    "sizes": thinned(_sizes()),
    "ragged": thinned(_ragged()),
    "ids": thinned(_ids()),
    "optional": thinned(_optional()),
    "chunks": thinned(_chunks()),
    "wide": thinned(_wide()),
    "long": list(_long()),
}


# -- heads -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadCase:
    """A problem of a head: rows (the leading shape), inputs I, outputs (or classes) O."""

    rows: tuple[int, ...]
    I: int
    O: int
    bias: bool = True
    ignored: float = 0.0  # share of the targets
    reduction: str = "mean"
    scale: float = 1.0  # of logits

    def arguments(self, dtype: str) -> dict[str, Any]:
        """Everything any head takes, rounded to `dtype`; rows whose target is ignored hold NaN."""
        rng = np.random.default_rng(1)
        bound = self.scale / np.sqrt(max(self.I, 1))

        def uniform(*shape: int) -> Array:
            return rng.uniform(-bound, bound, shape).astype(dtype)

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(dtype)

        dropped = rng.random(self.rows) < self.ignored
        targets = np.where(dropped, -1, rng.integers(max(self.O, 1), size=self.rows))
        x, logits = normal(*self.rows, self.I), normal(*self.rows, self.O) * np.dtype(dtype).type(self.scale)
        return {
            "x": x,
            "w": uniform(self.O, self.I),
            "b": uniform(self.O) if self.bias else None,
            "dy": normal(*self.rows, self.O),
            "h": np.where(dropped[..., None], np.dtype(dtype).type(np.nan), x),
            "logits": np.where(dropped[..., None], np.dtype(dtype).type(np.nan), logits),
            "targets": targets,
            "dloss": (normal(*self.rows) if self.reduction == "none" else np.asarray(1.5)).astype(
                dtype_of("dloss", dtype)
            ),
            "reduction": self.reduction,
        }


def run_head(operation: str, ops: Any, a: dict[str, Any], saved: Any = None) -> tuple[Any, Any]:
    """Forward and backward of a head by a module of operations."""
    options = {"ignore_index": -1, "reduction": a["reduction"]}
    if operation == "linear":
        forward = ops.linear_forward(a["x"], a["w"], a["b"])
        return forward, ops.linear_backward(a["dy"], saved or forward.saved)
    if operation == "cross_entropy":
        forward = ops.softmax_cross_entropy_forward(a["logits"], a["targets"], **options)
        return forward, ops.softmax_cross_entropy_backward(a["dloss"], saved or forward.saved)
    forward = ops.linear_cross_entropy_forward(a["h"], a["w"], a["b"], a["targets"], **options)
    return forward, ops.linear_cross_entropy_backward(a["dloss"], saved or forward.saved)


@cache
def head_truth(operation: str, case: HeadCase, dtype: str) -> tuple[dict[str, Any], Any, Any]:
    arguments = case.arguments(dtype)
    return arguments, *run_head(operation, reference, as_float64(arguments))


def check_head(kernel: Kernel, case: HeadCase) -> None:
    """A row of the kernel list against the truth, in one case."""
    arguments, want_forward, want_backward = head_truth(kernel.operation, case, kernel.dtype)
    with rnnkernels.config(isa=kernel.isa):
        forward, backward = run_head(kernel.operation, functional, arguments)
    if kernel.stage == "forward":
        assert_close(forward, want_forward, "forward", case, kernel.dtype)
    else:
        assert_close(backward, want_backward, "gradient", case, kernel.dtype)


def _head_sizes() -> Iterator[HeadCase]:
    reductions = ("mean", "sum", "none")
    for i, O in enumerate((*WIDTHS, 65, 257, 1000)):
        for j, N in enumerate((1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25)):
            I = WIDTHS[(5 * i + 3 * j) % len(WIDTHS)]
            bias, reduction = (i + j) % 3 != 0, reductions[(i + j) % 3]
            yield HeadCase((N,), I, O, bias, ignored=0.3 * (j % 2), reduction=reduction)
    for rows in ((0,), (3,), (), (2, 0, 3), (2, 3), (2, 1, 3)):
        for I, O in ((3, 4), (0, 4), (5, 1)):
            for reduction in reductions:
                yield HeadCase(rows, I, O, reduction=reduction)


def _head_blocks() -> Iterator[HeadCase]:
    """Numbers of rows below, at and above the 64 and 256 of a block; classes beyond the block's memory."""
    for N in (63, 64, 65, 127, 128, 129, 255, 256, 257, 513):
        yield HeadCase((N,), 5, 9, ignored=0.5)
        yield HeadCase((N,), 17, 33, bias=False, reduction="none")
    yield HeadCase((30,), 3, 25000, ignored=0.2)
    yield HeadCase((14,), 1030, 40)  # whose sums are taken in blocks of terms
    yield HeadCase((200,), 1030, 1050)


def _head_scales() -> Iterator[HeadCase]:
    """Logits so far apart that exp of most underflows, and so large that exp of any would overflow."""
    for scale in (30.0, 1000.0):
        for rows, I, O in (((9,), 1, 5), ((7,), 1, 40)):
            yield HeadCase(rows, I, O, scale=scale, reduction="none")


HEAD_FORMS: dict[str, list[HeadCase]] = {
    "sizes": thinned(_head_sizes()),
    "blocks": thinned(_head_blocks()),
    "scales": thinned(_head_scales()),
}
