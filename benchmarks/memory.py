"""The peak memory of a layer's forward and training calls, beside the formula of docs/memory.md (Linux).

``python benchmarks/memory.py`` prints a Markdown table. Each figure comes from a process of its own: how far
its resident memory rose during the second of two equal calls, above what it was with the arguments alone.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import re
from pathlib import Path

from rnnkernels import functional, set_num_threads
from rnnkernels.bench.grid import Row
from rnnkernels.testing import CELL_KINDS

KEPT = {"lstm": 6, "gru": 5, "rnn": 1}  # arrays (T, B, H) that training keeps: gates, and states
GATES = {"lstm": 4, "gru": 4, "rnn": 1}  # sums of a step and unit; a GRU's W_hn h + b_hn is one of its own
SHAPES = [(50, 64, 256), (50, 64, 1024), (4000, 8, 128), (100, 1, 512)]  # T, B, I = H
MIB = 1 << 20


def results(row: Row) -> int:
    """Bytes of y, h_n and c_n."""
    return 4 * (row.T * row.B * row.H + (2 if row.cell == "lstm" else 1) * row.B * row.H)


def kept(row: Row) -> int:
    """Bytes that backward needs of forward."""
    return 4 * KEPT[row.cell] * row.T * row.B * row.H


def gradients(row: Row) -> int:
    """Bytes of dx and of the parameters' gradients, with those of the state."""
    weights = CELL_KINDS[row.kind][2] * row.H * (row.I + row.H + 2)
    return 4 * (row.T * row.B * row.I + weights + 2 * row.B * row.H)


def scratch(row: Row, chunk: int) -> int:
    """Bytes of packed weights, the chunk of steps at work, and states."""
    weights = CELL_KINDS[row.kind][2] * row.H * (row.I + row.H)
    rows = min(row.T * row.B, chunk - 1 + row.B)
    wide = GATES[row.cell] * row.H * (2 if chunk > 128 else 1) + (row.I + row.H if chunk > 128 else 0)
    return 4 * (weights + rows * wide + 3 * row.B * row.H)


def formula(row: Row) -> int:
    """The whole."""
    forward = results(row) + scratch(row, 128)
    if not row.training:
        return forward
    backward = results(row) + gradients(row) + scratch(row, 256)
    return kept(row) + max(forward, backward)


def peak(row: Row) -> int:
    """Of the second call: the first leaves behind what every process has once."""
    set_num_threads(2)
    problem = row.problem()

    def call() -> object:
        y, hx, saved = functional.stack_forward(row.kind, problem.x, problem.params, save=row.training)
        return (y, hx, functional.stack_backward(problem.dy, saved)) if row.training else (y, hx)

    ctypes.CDLL(None).malloc_trim(0)  # or memory that drawing the numbers took would serve the call
    before = resident("VmRSS")
    call()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    call()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    (kib,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) << 10


def main() -> None:
    print("| T, B, I, H | cell | mode | measured, MiB | formula, MiB | ratio |")
    print("| --- | --- | --- | --: | --: | --: |")
    for (T, B, H), cell, mode in itertools.product(SHAPES, KEPT, ("inference", "training")):
        row = Row("", "", T, B, H, H, cell=cell, mode=mode)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured, expected = pool.apply(peak, (row,)) / MIB, formula(row) / MIB
        ratio = measured / expected
        print(f"| {T}, {B}, {H}, {H} | {cell} | {mode} | {measured:.1f} | {expected:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
