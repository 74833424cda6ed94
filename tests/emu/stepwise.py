"""Sends problems to a program of tests/cuda/stepwise.cu, emulated or on a GPU, and measures what comes back.

`python tests/emu/stepwise.py [--few] PROGRAM ...` checks every problem of every cell and type, and prints
what failed and the worst share of a budget.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  which makes "bfloat16" a dtype of NumPy
import numpy as np

from rnnkernels import reference
from rnnkernels.testing import (
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
from rnnkernels.types import Array, GRUSaved, LSTMSaved, RNNSaved

KINDS = tuple(CELL_KINDS)
DTYPES = {"f64": "float64", "f32": "float32", "tf32": "float32", "bf16": "bfloat16", "f16": "float16"}
NUMBERS = tuple(DTYPES)
INPUTS = ("x", "ids", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "lengths", "dy", "dh_n", "dc_n")
FORWARD = ("y", "h_n", "c_n", "saved.gates", "saved.c", "saved.h")
BACKWARD = ("dx", "dw_ih", "dw_hh", "db_ih", "db_hh", "dh0", "dc0")
# Of operands with 10 bits after the point; the sums are float32.
TF32_EPS = 2.0**-10
TF32: dict[Kind, float] = {"forward": 2 * TF32_EPS, "gradient": 2 * TF32_EPS}

# A tile has 64 rows of weights and 32 or 64 sequences, of k 32 words: 16 float64, 32 float32, 64 of 16
# bits; the ring has 4. (3, 1, 1, 1) leaves nearly all of a tile empty.
SIZES = [
    (3, 1, 1, 1),
    (2, 32, 16, 16),
    (2, 33, 17, 15),
    (4, 5, 7, 37),
    (2, 3, 130, 70),
    (1, 66, 3, 65),
    (5, 2, 64, 128),
]
CASES = [
    *(CellCase(*size) for size in SIZES),
    CellCase(6, 5, 9, 18, ragged=True),
    CellCase(6, 35, 8, 16, ragged=True, reverse=True, bias="sequence"),
    CellCase(5, 3, 6, 20, reverse=True, state=False, bias="none"),
    CellCase(7, 4, 11, 17, ids=True, ragged=True),
    CellCase(3, 40, 5, 8, ids=True, reverse=True, bias="sequence", state=False),
]
# Tiles of 128 x 128 are for products that fill a device: here x's projection, dx and gradients of weights.
LARGE = [CellCase(2, 2100, 130, 70)]

# Under sanitizers, and in many orders: small, and across an edge of every kind.
FEW = [CellCase(3, 33, 5, 17, ragged=True), CellCase(2, 2, 40, 9, reverse=True, bias="sequence")]
FEW += [CellCase(2, 3, 4, 5, ids=True, ragged=True)]
CHUNKED = [case for case in CASES if case.T >= 5]


class Job(NamedTuple):
    """A case for one cell in one of NUMBERS."""

    kind: str
    number: str
    case: CellCase
    transposed: bool = False  # w_ih, which goes with ids alone
    accumulate: bool = False  # the gradients twice, into zeros
    chunk_bytes: int = 0  # that a chunk of steps may take; 0: as many as usual
    infinite: bool = False  # x in the last step of the sequences that end early

    def __str__(self) -> str:
        marks = "".join(
            f", {mark}"
            for mark in ("transposed", "accumulate", "chunk_bytes", "infinite")
            if getattr(self, mark)
        )
        return f"{self.kind} {self.number} {self.case}{marks}"

    def problem(self) -> CellProblem:
        problem = self.case.problem(self.kind, DTYPES[self.number])
        if self.infinite:
            lengths = problem.arguments["lengths"]
            early = np.flatnonzero((lengths > 0) & (lengths < self.case.T))
            problem.arguments["x"][lengths[early] - 1, early] = np.inf
        return problem


# dgates are 0 where padding begins, and what they would be multiplied with is infinite.
INFINITE = Job("rnn_relu", "f32", CellCase(6, 9, 1, 5, ragged=True), infinite=True)


def jobs(
    kinds: Iterable[str] = KINDS, numbers: Iterable[str] = NUMBERS, cases: Sequence[CellCase] = CASES
) -> list[Job]:
    chosen = [Job(kind, number, case) for number, kind, case in product(numbers, kinds, cases)]
    if cases is CASES:  # chunks of one step, and of up to four, the last one shorter
        chosen += [Job(*one, chunk_bytes=5000) for one in product(kinds, numbers, CHUNKED)]
    chosen += [job._replace(transposed=True) for job in chosen if job.case.ids]
    chosen += [
        job._replace(accumulate=True) for job in chosen if job.number in ("f32", "f64") and job.case.ragged
    ]
    return chosen


def sent_array(array: Array | None) -> bytes:
    """An array, or none, as programs read it."""
    if array is None:
        return np.int64(-1).tobytes()
    data = array.tobytes()
    return np.int64(len(data)).tobytes() + data


def inputs(job: Job) -> bytes:
    """A job as the program reads it."""
    problem = job.problem()
    case, arguments = job.case, problem.arguments
    header = [KINDS.index(job.kind), NUMBERS.index(job.number), case.T, case.B, case.I, case.H]
    header += [case.reverse, case.bias == "sequence", job.transposed, job.accumulate, job.chunk_bytes]
    sent = {name: arguments.get(name, problem.cotangents.get(name)) for name in INPUTS}
    if case.ids:
        sent["ids"], sent["x"] = sent["x"], None
    if job.transposed:
        sent["w_ih"] = sent["w_ih"].T
    for name in ("ids", "lengths"):
        if sent[name] is not None:
            sent[name] = np.asarray(sent[name], np.int64)
    return np.array(header, np.int64).tobytes() + b"".join(map(sent_array, sent.values()))


def shapes(job: Job) -> dict[str, tuple[int, ...]]:
    T, B, I, H = job.case.T, job.case.B, job.case.I, job.case.H
    G = CELL_KINDS[job.kind][2]
    saved = {"lstm": 4, "gru": 4, "gru_reset_before": 3}.get(job.kind, 0)
    state, sequence = (B, H), (B, G * H) if job.case.bias == "sequence" else (G * H,)
    result: dict[str, tuple[int, ...]] = {"y": (T, B, H), "h_n": state, "c_n": state}
    result |= {"saved.gates": (T, B, saved * H), "saved.c": (T, B, H), "saved.h": (T, B, H)}
    dw_ih = (I, G * H) if job.transposed else (G * H, I)
    result |= {"dx": (T, B, I), "dw_ih": dw_ih, "dw_hh": (G * H, H), "db_ih": sequence, "db_hh": (G * H,)}
    return result | {"dh0": state, "dc0": state}


def outputs(job: Job, stream: io.BytesIO) -> dict[str, Array]:
    results = {}
    for name, shape in shapes(job).items():
        size = int(np.frombuffer(stream.read(8), np.int64)[0])
        if size >= 0:
            dtype = dtype_of(name, DTYPES[job.number])
            results[name] = np.frombuffer(stream.read(size), dtype).reshape(shape)
    if job.transposed:
        results["dw_ih"] = results["dw_ih"].T
    return results


def saved_by(job: Job, problem: CellProblem, got: dict[str, Array]) -> Any:
    """What the device's forward kept, for the reference's backward in float64."""
    a = problem.arguments
    lengths = np.asarray(a["lengths"]) if "lengths" in a else None
    common = [a["x"], a["w_ih"], a["w_hh"], a.get("b_ih"), a.get("b_hh"), a.get("h0")]
    h, gates = got["saved.h"], got.get("saved.gates")
    if job.kind == "lstm":
        saved: Any = LSTMSaved(*common, a.get("c0"), lengths, job.case.reverse, gates, got["saved.c"], h)
    elif job.kind.startswith("gru"):
        saved = GRUSaved(*common, lengths, job.case.reverse, job.kind == "gru", gates, h)
    else:
        saved = RNNSaved(*common, lengths, job.case.reverse, job.kind.removeprefix("rnn_"), h)
    return as_float64(saved)


def limit(job: Job, kind: Kind) -> float:
    return TF32[kind] if job.number == "tf32" else budget(DTYPES[job.number], kind)


def shares(job: Job, got: dict[str, Array]) -> Iterator[tuple[str, float]]:
    """The share of its budget that each result's error is. Gradients are measured from what forward kept."""
    problem = job.problem()
    wide = problem.as_float64()
    with np.errstate(invalid="ignore"):  # of infinite numbers
        want = named_arrays(wide.forward(reference))
        gradients = named_arrays(wide.backward(reference, saved_by(job, problem, got)))
    for name in FORWARD:
        if name in want:
            yield name, relative_error(got[name], want[name]) / limit(job, "forward")
    for name in BACKWARD:
        if name in gradients:
            twice = 2 if job.accumulate else 1
            yield name, relative_error(got[name], twice * gradients[name]) / limit(job, "gradient")


def answers(command: Sequence[str], sent: bytes, environment: dict[str, str] | None) -> io.BytesIO:
    """What the program prints."""
    done = subprocess.run(
        command, input=sent, env=os.environ | (environment or {}), capture_output=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return io.BytesIO(done.stdout)


def run(
    command: Sequence[str], batch: Sequence[Job], environment: dict[str, str] | None = None
) -> list[dict[str, Array]]:
    """What the program makes of each job."""
    stream = answers(command, b"".join(map(inputs, batch)), environment)
    return [outputs(job, stream) for job in batch]


def main(*command: str) -> int:
    few = command[0] == "--few"
    batch = jobs(cases=FEW) if few else jobs() + jobs(["lstm"], cases=LARGE)
    worst: dict[str, tuple[float, str]] = {}
    failed = 0
    for job, got in zip(batch, run(command[few:], batch), strict=True):
        for name, share in shares(job, got):
            if not share <= 1:
                print(f"FAILED {job}: {name} {share:.3g} of its budget")
                failed += 1
            stage = f"{job.number} {'backward' if name in BACKWARD else 'forward'}"
            worst[stage] = max(worst.get(stage, (0.0, "")), (share, f"{job}: {name}"))
    for stage, (share, where) in worst.items():
        print(f"{stage:14} {share:.3f}  {where}")
    print(f"{len(batch)} problems, {failed} results failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
