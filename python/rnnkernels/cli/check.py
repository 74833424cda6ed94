"""`rnnkernels check`: every kernel on this machine against the float64 reference, a line a kernel.

The truth is the reference computed in float64 from the very numbers the kernel sees; in 16 bits its backward
starts from what the kernel's forward kept.  What is printed is the worst error of a kernel over all its cases
as a share of its budget (`rnnkernels.testing`): above 1 it fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .. import config, functional, info, reference
from ..charlm import InputError
from ..testing import (
    CELL_KINDS,
    CellCase,
    CellProblem,
    Kind,
    as_float64,
    budget,
    dtype_of,
    named_arrays,
    relative_error,
)
from ..types import Array

# T, B, I, H: ones, odd sizes, sizes around a vector's and a tile's, a long one, one with sums of many terms.
SIZES = (
    (1, 1, 1, 1),
    (5, 3, 7, 5),
    (6, 5, 16, 16),
    (3, 19, 9, 33),
    (9, 2, 40, 24),
    (2, 67, 3, 15),
    (4, 1, 65, 63),
    (50, 6, 31, 48),
    (6, 7, 17, 70),
)
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"bias": "none", "state": False},
    {"reverse": True},
    {"ragged": True},
    {"ragged": True, "reverse": True},
    {"ids": True},
    {"ids": True, "ragged": True, "reverse": True},
    {"bias": "sequence", "ragged": True},
)
# Leading shape, inputs, outputs (or classes) of a head.
HEADS = (
    ((1,), 1, 1),
    ((5,), 7, 3),
    ((4, 9), 16, 16),
    ((3, 7), 33, 65),
    ((2, 33), 20, 257),
    ((70,), 48, 1000),
)
DTYPES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
HALVES = ("bfloat16", "float16")

Results = dict[str, dict[str, Array]]  # stage, such as forward -> name -> array


@dataclass(frozen=True)
class Case:
    """Something to compute twice: by a module of operations, from arguments by name.

    `compute` also returns what forward saved; given what another one saved, its backward starts from that.
    In 16 bits each of the `layers` may lose a budget, as its x was rounded.
    """

    description: str
    arguments: dict[str, Any]
    compute: Callable[[ModuleType, dict[str, Any], Any], tuple[Results, Any]]
    layers: int = 1


@dataclass
class Row:
    """What has been seen of one kernel."""

    cases: int = 0
    worst: float = 0.0  # share of the budget
    where: str = ""

    def add(self, case: Case, dtype: str, kind: Kind, got: dict[str, Array], want: dict[str, Array]) -> None:
        """Count a case and keep the worst of its errors."""
        self.cases += 1
        if got.keys() != want.keys():
            self._note(math.inf, f"names {sorted(got)} instead of {sorted(want)} at {case.description}")
        budgets = budget(dtype, kind) * (case.layers if dtype in HALVES else 1)
        for name in got.keys() & want.keys():
            share = relative_error(got[name], want[name]) / budgets
            if np.asarray(got[name]).dtype != dtype_of(name, dtype):
                share = math.inf
            self._note(share, f"{name} at {case.description}")

    def fail(self, case: Case, error: Exception) -> None:
        """Count a case that raised."""
        self.cases += 1
        self._note(math.inf, f"{type(error).__name__} at {case.description}: {error}")

    def _note(self, share: float, where: str) -> None:
        if share >= self.worst:
            self.worst, self.where = share, where


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels check`."""
    parser.add_argument(
        "--isa",
        action="append",
        help="an instruction set to check (default: all available, or RNNKERNELS_ISA)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells and heads with this in their names"
    )


def run(options: argparse.Namespace) -> int:
    """Check and print; 1 if anything is over its budget."""
    facts = info()
    available = facts["isas"]
    forced = [facts["isa"]] if "RNNKERNELS_ISA" in os.environ else available
    isas = options.isa or forced
    for isa in isas:
        if isa not in available:
            raise InputError(f"--isa: expected one of {', '.join(available)}, got {isa}")
    rows: dict[str, Row] = {}
    dtypes = _dtypes()
    for dtype in dtypes:
        own = [
            isa for isa in isas if any(name.endswith(f"_{DTYPES[dtype]}_{isa}") for name in facts["kernels"])
        ]
        for family, cases in _families(dtype):
            if options.only not in family:
                continue
            found = _check(family, dtype, cases, own)
            rows |= found
            for name, row in found.items():
                _print(name, row)
    if not rows and not options.only:
        raise InputError(
            f"--isa: {', '.join(isas)} has kernels of bfloat16 alone, which need ml_dtypes to be checked"
        )
    if not rows:
        raise InputError(f"--only: expected part of a name such as lstm or stack_gru, got {options.only}")
    checked = {DTYPES[dtype] for dtype in dtypes}
    for name in set(facts["kernels"]) - set(rows):
        _, dtype, isa = name.rsplit("_", 2)
        if isa in isas and dtype in checked and not options.only:
            rows[name] = Row(0, math.inf, "no case covers this kernel")
            _print(name, rows[name])
    return _summarise(rows)


def _dtypes() -> list[str]:
    """Those that NumPy knows; bfloat16 is not its own."""
    with contextlib.suppress(ImportError):
        importlib.import_module("ml_dtypes")
    try:
        np.dtype("bfloat16")
    except TypeError:
        print("bfloat16 is not checked: install ml_dtypes", file=sys.stderr)
        return [dtype for dtype in DTYPES if dtype != "bfloat16"]
    return list(DTYPES)


def _check(family: str, dtype: str, cases: Iterator[Case], isas: list[str]) -> dict[str, Row]:
    """Rows of one family, such as lstm, by kernel name."""
    rows: dict[str, Row] = {}
    for case in cases:
        wide = as_float64(case.arguments)
        truth, _ = case.compute(reference, wide, None)
        for isa in isas:
            names = {stage: f"{family}_{stage}_{DTYPES[dtype]}_{isa}" for stage in truth}
            try:
                with config(isa=isa):
                    results, saved = case.compute(functional, case.arguments, None)
                if dtype in HALVES and saved is not None:
                    truth = truth | {
                        "backward": case.compute(reference, wide, as_float64(saved))[0]["backward"]
                    }
            except Exception as error:  # whatever it is, it is this kernel's failure and the others go on
                for name in names.values():
                    rows.setdefault(name, Row()).fail(case, error)
                continue
            for stage, want in truth.items():
                kind: Kind = "gradient" if stage == "backward" else "forward"
                rows.setdefault(names[stage], Row()).add(case, dtype, kind, results[stage], want)
    return rows


def _print(name: str, row: Row) -> None:
    verdict = "ok" if row.worst <= 1.0 else "FAILED"
    print(f"{name:<48}{row.cases:>4} cases  worst {row.worst:8.4f} of budget  {verdict:<7} {row.where}")


def _summarise(rows: dict[str, Row]) -> int:
    failed = [name for name, row in rows.items() if not row.worst <= 1.0]
    worst = max(rows, key=lambda name: rows[name].worst)
    print(
        f"{sum(row.cases for row in rows.values())} cases of {len(rows)} kernels, {len(failed)} failed; "
        f"worst {rows[worst].worst:.4f} of budget: {worst}, {rows[worst].where}"
    )
    return 1 if failed else 0


# -- the cases ---------------------------------------------------------------------------------------------


def _families(dtype: str) -> Iterator[tuple[str, Iterator[Case]]]:
    for kind in CELL_KINDS:
        yield kind, _cell_cases(kind, dtype)
    yield "linear", _linear_cases(dtype)
    yield "cross_entropy", _cross_entropy_cases(dtype, fused=False)
    yield "linear_cross_entropy", _cross_entropy_cases(dtype, fused=True)
    for kind in CELL_KINDS:
        yield f"stack_{kind}", _stack_cases(kind, dtype)
    for kind in CELL_KINDS:
        yield f"pack_{kind}", _pack_cases(kind, dtype)
    for kind in CELL_KINDS if dtype == "float32" else ():
        yield f"pack_int8_{kind}", _int8_cases(kind, dtype)


def _cell_cases(kind: str, dtype: str) -> Iterator[Case]:
    def compute(ops: ModuleType, arguments: dict[str, Any], saved: Any) -> tuple[Results, Any]:
        problem = CellProblem(kind, **arguments)
        forward = problem.forward(ops)
        backward = problem.backward(ops, saved or forward.saved)
        return {"forward": named_arrays(forward), "backward": named_arrays(backward)}, forward.saved

    for seed, (size, variant) in enumerate((size, variant) for size in SIZES for variant in VARIANTS):
        case = CellCase(*size, **variant)
        problem = case.problem(kind, dtype, seed)
        yield Case(str(case), {"arguments": problem.arguments, "cotangents": problem.cotangents}, compute)


def _linear_cases(dtype: str) -> Iterator[Case]:
    def compute(ops: ModuleType, a: dict[str, Any], _: Any) -> tuple[Results, Any]:
        forward = ops.linear_forward(a["x"], a["w"], a["b"])
        backward = ops.linear_backward(a["dy"], forward.saved)
        return {"forward": {"y": forward.y}, "backward": named_arrays(backward)}, None

    for lead, inputs, outputs in HEADS:
        for bias in (True, False):
            draw = _Draw(dtype, inputs)
            arguments = {
                "x": draw.normal(*lead, inputs),
                "w": draw.weight(outputs, inputs),
                "b": draw.weight(outputs) if bias else None,
                "dy": draw.normal(*lead, outputs),
            }
            yield Case(f"x {(*lead, inputs)}, w {(outputs, inputs)}, bias {bias}", arguments, compute)


def _cross_entropy_cases(dtype: str, *, fused: bool) -> Iterator[Case]:
    def compute(ops: ModuleType, a: dict[str, Any], _: Any) -> tuple[Results, Any]:
        options = {"reduction": a["reduction"], "ignore_index": a["ignore_index"]}
        if fused:
            forward = ops.linear_cross_entropy_forward(a["h"], a["w"], a["b"], a["targets"], **options)
            backward = ops.linear_cross_entropy_backward(a["dloss"], forward.saved)
        else:
            forward = ops.softmax_cross_entropy_forward(a["h"], a["targets"], **options)
            backward = ops.softmax_cross_entropy_backward(a["dloss"], forward.saved)
        return {"forward": {"loss": forward.loss}, "backward": named_arrays(backward)}, None

    for lead, inputs, classes in HEADS:
        for reduction in ("mean", "sum", "none"):
            draw = _Draw(dtype, inputs)
            targets = draw.rng.integers(classes, size=lead)
            if len(lead) == 2:
                targets[draw.rng.random(lead) < 0.3] = -1
            arguments = {
                "h": draw.normal(*lead, inputs if fused else classes),
                "w": draw.weight(classes, inputs),
                "b": draw.weight(classes),
                "targets": targets,
                "reduction": reduction,
                "ignore_index": -1,
                "dloss": draw.normal(*lead, name="dloss") if reduction == "none" else 1.5,
            }
            yield Case(f"rows {lead}, {inputs} inputs, {classes} classes, {reduction}", arguments, compute)


def _stack_cases(kind: str, dtype: str) -> Iterator[Case]:
    def compute(ops: ModuleType, a: dict[str, Any], kept: Any) -> tuple[Results, Any]:
        options = {"lengths": a["lengths"], "dropout": 0.3, "rng": a["key"]}
        y, hx, saved = ops.stack_forward(kind, a["x"], a["params"], a["hx"], **options)
        grads = ops.stack_backward(a["dy"], kept or saved, a["hx"])
        gradients = {"dx": grads.dx} | _states("d", grads.dhx)
        for layer, directions in enumerate(grads.params):
            for direction, tensors in enumerate(directions):
                gradients |= {f"params[{layer}][{direction}][{i}]": part for i, part in enumerate(tensors)}
        return {"forward": {"y": y} | _states("", hx), "backward": gradients}, saved

    for seed, (T, B, I, H) in enumerate(SIZES):
        draw = _Draw(dtype, H, seed)
        arguments = {
            "x": draw.normal(T, B, I),
            "params": draw.params(kind, I, H, layers=2, directions=2),
            "hx": draw.state(kind, 4, B, H),
            "lengths": draw.rng.integers(T + 1, size=B),
            "key": seed,
            "dy": draw.normal(T, B, 2 * H),
        }
        yield Case(f"T={T} B={B} I={I} H={H}, 2 layers, 2 directions, dropout", arguments, compute, layers=2)


def _pack_cases(kind: str, dtype: str) -> Iterator[Case]:
    def compute(ops: ModuleType, a: dict[str, Any], _: Any) -> tuple[Results, Any]:
        if ops is reference:
            y, hx, _ = ops.stack_forward(kind, a["x"], a["params"], a["hx"])
            whole = stepped = {"y": y} | _states("", hx)
        else:
            pack = ops.pack(kind, a["params"])
            y, hx = pack.forward(a["x"], a["hx"])
            whole = {"y": y} | _states("", hx)
            state, steps = a["hx"], []
            for x_t in a["x"]:
                y_t, state = pack.step(x_t, state)
                steps.append(y_t)
            stepped = {"y": np.stack(steps)} | _states("", state)
        return {"forward": whole, "step": stepped}, None

    for seed, (T, B, I, H) in enumerate(SIZES):
        draw = _Draw(dtype, H, seed)
        arguments = {
            "x": draw.rng.integers(I, size=(T, B)) if seed % 2 else draw.normal(T, B, I),
            "params": draw.params(kind, I, H, layers=2, directions=1),
            "hx": draw.state(kind, 2, B, H),
        }
        yield Case(f"T={T} B={B} I={I} H={H}, 2 layers", arguments, compute, layers=2)


def _int8_cases(kind: str, dtype: str) -> Iterator[Case]:
    """Single steps: in later ones a rounding error may decide to which integer a state is rounded."""

    def compute(ops: ModuleType, a: dict[str, Any], _: Any) -> tuple[Results, Any]:
        if ops is reference:
            y, hx, _ = ops.int8_stack(kind, a["x"], a["params"], a["hx"])
        else:
            y, hx = ops.pack(kind, a["params"], "int8").forward(a["x"], a["hx"])
        return {"forward": {"y": y} | _states("", hx)}, None

    for seed, (_, B, I, H) in enumerate(SIZES):
        draw = _Draw(dtype, H, seed)
        arguments = {
            "x": draw.rng.integers(I, size=(1, B)) if seed % 2 else draw.normal(1, B, I),
            "params": draw.params(kind, I, H, layers=1, directions=2),
            "hx": draw.state(kind, 2, B, H),
        }
        yield Case(f"T=1 B={B} I={I} H={H}, 2 directions", arguments, compute)


class _Draw:
    """Random arrays of a dtype; weights of PyTorch's default size for `fan` inputs."""

    def __init__(self, dtype: str, fan: int, seed: int = 0) -> None:
        self.dtype, self.bound = np.dtype(dtype), 1.0 / math.sqrt(fan)
        self.rng = np.random.default_rng((seed, fan))

    def normal(self, *shape: int, name: str = "") -> Array:
        return self.rng.standard_normal(shape).astype(dtype_of(name, self.dtype))

    def weight(self, *shape: int) -> Array:
        return self.rng.uniform(-self.bound, self.bound, shape).astype(self.dtype)

    def state(self, kind: str, layers: int, B: int, H: int) -> Any:
        h = self.normal(layers, B, H)
        return (h, self.normal(layers, B, H, name="cx")) if kind == "lstm" else h

    def params(self, kind: str, I: int, H: int, *, layers: int, directions: int) -> list[Any]:
        GH = CELL_KINDS[kind][2] * H
        inputs = [I] + [directions * H] * (layers - 1)
        return [
            [
                (self.weight(GH, width), self.weight(GH, H), self.weight(GH), self.weight(GH))
                for _ in range(directions)
            ]
            for width in inputs
        ]


def _states(prefix: str, hx: Any) -> dict[str, Array]:
    parts = hx if isinstance(hx, tuple) else (hx,)
    return {f"{prefix}{name}x": part for name, part in zip("hc", parts, strict=False)}
