"""`rnnkernels bench`: how many times as fast as the NumPy reference the kernels are here, once they agree."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

from .. import info
from ..bench.cases import SHAPES, Result, compare
from ..testing import CELL_KINDS
from .arguments import positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels bench`."""
    parser.add_argument(
        "--cell", action="append", choices=list(CELL_KINDS), help="default: lstm, gru, rnn_tanh"
    )
    parser.add_argument(
        "--shape", action="append", type=_shape, metavar="T,B,I,H", help="default: three shapes"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=positive_int, default=5, help="turns of each (default: %(default)s)")
    parser.add_argument("--threads", type=positive_int, help="threads of the kernels (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Time and print; 1 if a kernel is further from its reference than its budget."""
    results = [
        result
        for kind in options.cell or ("lstm", "gru", "rnn_tanh")
        for shape in options.shape or SHAPES
        for result in compare(kind, options.dtype, shape, rounds=options.rounds)
    ]
    facts = info()
    if options.json:
        machine = {name: facts[name] for name in ("version", "isa", "num_threads", "cpu")}
        print(json.dumps({"machine": machine, "results": [result.as_dict() for result in results]}, indent=1))
    else:
        Console().print(_table(results, f"{facts['isa']}, {facts['num_threads']} threads"))
    return 1 if any(not result.share_of_budget <= 1.0 for result in results) else 0


def _shape(text: str) -> tuple[int, int, int, int]:
    T, B, I, H = (positive_int(part) for part in text.split(","))
    return T, B, I, H


def _table(results: list[Result], machine: str) -> Table:
    title = f"milliseconds, reference against kernel: {results[0].dtype}, {machine}"
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    for heading in ("cell", "T,B,I,H", "mode", "reference", "kernel", "ratio (quartiles)", "budget"):
        table.add_column(heading, justify="left" if heading in ("cell", "mode") else "right", no_wrap=True)
    for result in results:
        ratio, wrong = result.ratio, not result.share_of_budget <= 1.0
        table.add_row(
            result.kind,
            ",".join(map(str, result.shape)),
            result.mode,
            f"{1e3 * result.reference.median:.3f}",
            f"{1e3 * result.kernel.median:.3f}",
            f"{ratio.median:.1f} ({ratio.lower:.1f}-{ratio.upper:.1f})",
            f"{result.share_of_budget:.3f}" + (" WRONG" if wrong else ""),
        )
    return table
