"""Sends problems of heads to a program of tests/cuda/heads.cu, emulated or on a GPU, and measures results.

`python tests/emu/heads.py PROGRAM ...` checks every problem of every head and type, and prints what failed
and the worst share of a budget.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from stepwise import DTYPES, NUMBERS, TF32, answers, sent_array

from rnnkernels import reference
from rnnkernels.testing import Kind, as_float64, budget, dtype_of, relative_error
from rnnkernels.types import Array

HEADS = ("linear", "cross_entropy", "linear_cross_entropy")
IGNORED = -1
RESULTS = ("y", "loss", "lse", "dx", "dw", "db")


class Rows(NamedTuple):
    """A problem of a head: N rows of I inputs, O outputs or classes."""

    N: int
    I: int
    O: int
    bias: bool = True
    ignored: float = 0.0  # share of the targets
    scale: float = 1.0  # of logits


# Tiles have 64 or 128 rows and columns, reductions 256 columns at a time.
CASES = [
    Rows(1, 1, 1),
    Rows(5, 16, 32, ignored=0.4),
    Rows(33, 17, 15, bias=False),
    Rows(65, 7, 257, ignored=0.3),
    Rows(3, 70, 600),
    Rows(130, 40, 64, ignored=0.5),
    Rows(9, 1, 40, scale=1000.0),
]
FEW = [Rows(3, 9, 17, ignored=0.4), Rows(2, 40, 300)]


class Job(NamedTuple):
    """A case for one head in one of NUMBERS."""

    head: str
    number: str
    case: Rows
    accumulate: bool = False  # the gradients twice, into zeros
    chunk_bytes: int = 0  # that a chunk of rows may take; 0: as many as usual

    def arguments(self) -> dict[str, Array | None]:
        case, dtype = self.case, DTYPES[self.number]
        rng = np.random.default_rng(1)
        bound = case.scale / np.sqrt(max(case.I, 1))
        dropped = rng.random(case.N) < case.ignored
        x = rng.standard_normal((case.N, case.I))
        logits = case.scale * rng.standard_normal((case.N, case.O))
        if self.head != "linear":
            x[dropped] = logits[dropped] = np.nan
        dy, dloss = rng.standard_normal((case.N, case.O)), rng.standard_normal(case.N)
        products = self.head != "cross_entropy"
        return {
            "x": (x if products else logits).astype(dtype),
            "w": rng.uniform(-bound, bound, (case.O, case.I)).astype(dtype) if products else None,
            "b": rng.uniform(-bound, bound, case.O).astype(dtype) if products and case.bias else None,
            "targets": np.where(dropped, IGNORED, rng.integers(case.O, size=case.N)),
            "d": dy.astype(dtype) if self.head == "linear" else dloss.astype(dtype_of("dloss", dtype)),
        }


def jobs(numbers: Iterable[str] = NUMBERS, cases: Sequence[Rows] = CASES) -> list[Job]:
    chosen = [Job(*one) for one in product(HEADS, numbers, cases)]
    if cases is CASES:  # chunks of a few rows, the last one shorter
        chosen += [job._replace(chunk_bytes=5000) for job in chosen if job.case.N > 30]
    chosen += [job._replace(accumulate=True) for job in chosen if job.number == "f32" and job.case.ignored]
    return chosen


def inputs(job: Job) -> bytes:
    """A job as the program reads it."""
    case = job.case
    header = [HEADS.index(job.head), NUMBERS.index(job.number), case.N, case.I, case.O]
    header += [job.accumulate, job.chunk_bytes, IGNORED]
    return np.array(header, np.int64).tobytes() + b"".join(map(sent_array, job.arguments().values()))


def outputs(job: Job, stream: io.BytesIO) -> dict[str, Array]:
    case, results = job.case, {}
    columns = case.O if job.head == "cross_entropy" else case.I
    shapes = {"y": (case.N, case.O), "loss": (case.N,), "lse": (case.N,), "dx": (case.N, columns)}
    shapes |= {"dw": (case.O, case.I), "db": (case.O,)}
    for name in RESULTS:
        size = int(np.frombuffer(stream.read(8), np.int64)[0])
        if size >= 0:
            dtype = dtype_of({"lse": "loss"}.get(name, name), DTYPES[job.number])
            results[name] = np.frombuffer(stream.read(size), dtype).reshape(shapes[name])
    return results


def truth(job: Job) -> dict[str, Array]:
    """The reference in float64."""
    a: dict[str, Any] = as_float64(job.arguments())
    if job.head == "linear":
        forward = reference.linear_forward(a["x"], a["w"], a["b"])
        backward: Any = reference.linear_backward(a["d"], forward.saved)
        return {"y": forward.y, "dx": backward.dx, "dw": backward.dw, "db": backward.db}
    options: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "none"}
    if job.head == "cross_entropy":
        entropy = reference.softmax_cross_entropy_forward(a["x"], a["targets"], **options)
        gradient = reference.softmax_cross_entropy_backward(a["d"], entropy.saved)
        return {"loss": entropy.loss, "lse": entropy.saved.lse, "dx": gradient.dlogits}
    fused = reference.linear_cross_entropy_forward(a["x"], a["w"], a["b"], a["targets"], **options)
    backward = reference.linear_cross_entropy_backward(a["d"], fused.saved)
    return {
        "loss": fused.loss,
        "lse": fused.saved.lse,
        "dx": backward.dh,
        "dw": backward.dw,
        "db": backward.db,
    }


def shares(job: Job, got: dict[str, Array]) -> Iterator[tuple[str, float]]:
    """The share of its budget that each result's error is."""
    with np.errstate(invalid="ignore"):
        want = truth(job)
    ignored = job.arguments()["targets"] == IGNORED
    for name, array in got.items():
        kind: Kind = "gradient" if name.startswith("d") else "forward"
        limit = TF32[kind] if job.number == "tf32" else budget(DTYPES[job.number], kind)
        expected = want[name] * (
            2 if job.accumulate and job.head != "cross_entropy" and kind == "gradient" else 1
        )
        if name == "lse":
            array, expected = array[~ignored], expected[~ignored]
        yield name, relative_error(array, expected) / limit


def run(
    command: Sequence[str], batch: Sequence[Job], environment: dict[str, str] | None = None
) -> list[dict[str, Array]]:
    """What the program makes of each job."""
    stream = answers(command, b"".join(map(inputs, batch)), environment)
    return [outputs(job, stream) for job in batch]


def main(*command: str) -> int:
    batch = jobs()
    worst: dict[str, tuple[float, str]] = {}
    failed = 0
    for job, got in zip(batch, run(command, batch), strict=True):
        for name, share in shares(job, got):
            if not share <= 1:
                print(f"FAILED {job}: {name} {share:.3g} of its budget")
                failed += 1
            worst[job.number] = max(worst.get(job.number, (0.0, "")), (share, f"{job}: {name}"))
    for number, (share, where) in worst.items():
        print(f"{number:6} {share:.3f}  {where}")
    print(f"{len(batch)} problems, {failed} results failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
