"""What `rnnkernels bench` runs: a kernel against its reference, checked, then timed in turns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .. import functional, reference
from ..testing import CELL_KINDS, CellCase, CellProblem, Kind, budget, named_arrays, relative_error
from .timing import Quartiles, quartiles, ratios, take_turns

# T, B, I, H: a training batch, streaming a large model, streaming a tiny one.
SHAPES = ((50, 64, 256, 256), (100, 1, 512, 512), (100, 1, 8, 16))
MODES = ("inference", "training")


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes
    ----------
    kind, dtype, shape
        What was timed; shape is T, B, I, H.
    mode
        "inference", a forward that saves nothing, or "training", forward and backward.
    share_of_budget
        The error of the kernel against the float64 reference before timing; above 1 it is wrong.
    reference, kernel
        Seconds a call.
    ratio
        How many times as fast as the reference the kernel is, by round.
    """

    kind: str
    dtype: str
    shape: tuple[int, int, int, int]
    mode: str
    share_of_budget: float
    reference: Quartiles
    kernel: Quartiles
    ratio: Quartiles

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            name: getattr(self, name)._asdict() for name in ("reference", "kernel", "ratio")
        }


def compare(kind: str, dtype: str, shape: tuple[int, int, int, int], *, rounds: int) -> list[Result]:
    """Check and time one shape in both modes."""
    problem = CellCase(*shape).problem(kind, dtype)
    share = share_of_budget(problem, dtype)
    results = []
    for mode in MODES:
        times = take_turns(
            {
                "reference": lambda mode=mode: _call(reference, problem, mode),  # type: ignore[misc]
                "kernel": lambda mode=mode: _call(functional, problem, mode),  # type: ignore[misc]
            },
            rounds=rounds,
        )
        slow, fast = times["reference"], times["kernel"]
        results.append(
            Result(kind, dtype, shape, mode, share, quartiles(slow), quartiles(fast), ratios(slow, fast))
        )
    return results


def share_of_budget(problem: CellProblem, dtype: str) -> float:
    """The worst error of the kernel's forward and backward, as a share of its budget."""
    forward = problem.forward(functional)
    truth = problem.as_float64()
    true_forward = truth.forward(reference)
    pairs: list[tuple[Kind, Any, Any]] = [
        ("forward", forward, true_forward),
        (
            "gradient",
            problem.backward(functional, forward.saved),
            truth.backward(reference, true_forward.saved),
        ),
    ]
    worst = 0.0
    for kind, got, want in pairs:
        arrays = named_arrays(got)
        for name, array in named_arrays(want).items():
            worst = max(worst, relative_error(arrays[name], array) / budget(dtype, kind))
    return worst


def _call(ops: Any, problem: CellProblem, mode: str) -> None:
    if mode == "training":
        problem.backward(ops, problem.forward(ops).saved)
    else:
        getattr(ops, f"{CELL_KINDS[problem.kind][0]}_forward")(**problem.arguments, save=False)
