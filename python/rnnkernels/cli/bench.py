"""`rnnkernels bench`: kernels against their NumPy references, or with --peers against other libraries.

Both check results before they time them.  Each has options of its own, which the other refuses.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .. import config, info
from ..bench import cases, grid
from ..bench.libraries import PEERS
from ..charlm import InputError
from ..testing import CELL_KINDS
from .arguments import positive_int

if TYPE_CHECKING:
    from ..bench.comparison import Report

ROUNDS = 5
# Options of one comparison alone -> what stands for them where they are not given.
REFERENCE = {"cell": ("lstm", "gru", "rnn_tanh"), "shape": cases.SHAPES, "dtype": "float32"}
GRID: dict[str, Any] = {
    "rows": None,
    "groups": grid.GROUPS,
    "cells": tuple(grid.CELLS),
    "modes": cases.MODES,
    "dtypes": grid.DTYPES[:1],
    "markdown": None,
    "chart": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels bench`."""
    parser.add_argument(
        "--rounds", type=positive_int, default=ROUNDS, help="turns of each (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        dest="thread_counts",
        type=_list_of(positive_int),
        metavar="N[,N]",
        help="threads (default: all CPUs; with --peers 1 and 2)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write JSON to a file, or print it instead of a table",
    )
    own = parser.add_argument_group("against references")
    own.add_argument("--cell", action="append", choices=list(CELL_KINDS), help="default: lstm, gru, rnn_tanh")
    own.add_argument("--shape", action="append", type=_shape, metavar="T,B,I,H", help="default: three shapes")
    own.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    peers = parser.add_argument_group("against other libraries")
    peers.add_argument("--peers", type=_list_of(_among(PEERS)), metavar="NAMES", help=f"of {','.join(PEERS)}")
    peers.add_argument("--rows", type=_list_of(str), metavar="NAMES", help="such as 'lstm-step-*'")
    kinds: dict[str, tuple[str, ...]] = {
        "groups": grid.GROUPS,
        "cells": tuple(grid.CELLS),
        "modes": cases.MODES,
        "dtypes": grid.DTYPES,
    }
    for name, choices in kinds.items():
        default = " (default: float32)" if name == "dtypes" else ""
        peers.add_argument(
            f"--{name}",
            type=_list_of(_among(choices)),
            metavar="NAMES",
            help=f"of {','.join(choices)}{default}",
        )
    peers.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    peers.add_argument(
        "--chart", type=Path, metavar="FILE", help="draw the ratios to the best peers (PNG, SVG, PDF)"
    )


def run(options: argparse.Namespace) -> int:
    """Time and print; 1 if a kernel is further from its reference than its budget, or a peer failed."""
    ours, other = (GRID, REFERENCE) if options.peers else (REFERENCE, GRID)
    for name in other:
        if getattr(options, name) is not None:
            raise InputError(f"--{name}: expected {'no' if options.peers else 'with'} --peers")
    for name, default in ours.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return _run_peers(options) if options.peers else _run_reference(options)


# -- against references ------------------------------------------------------------------------------------


def _run_reference(options: argparse.Namespace) -> int:
    threads = options.thread_counts or [None]
    if len(threads) > 1:
        raise InputError(f"--threads: expected one number, got {len(threads)}")
    try:
        chosen = config(num_threads=threads[0])
    except ValueError as error:
        raise InputError(str(error)) from None
    with chosen:
        results = [
            result
            for kind in options.cell
            for shape in options.shape
            for result in cases.compare(kind, options.dtype, shape, rounds=options.rounds)
        ]
        facts = info()
    machine = {name: facts[name] for name in ("version", "isa", "num_threads", "cpu")}
    _write_json(options.json, {"machine": machine, "results": [result.as_dict() for result in results]})
    if options.json != "-":
        Console().print(_reference_table(results, f"{facts['isa']}, {facts['num_threads']} threads"))
    return 1 if any(not result.share_of_budget <= 1.0 for result in results) else 0


def _reference_table(results: list[cases.Result], machine: str) -> Table:
    title = f"milliseconds, reference against kernel: {results[0].dtype}, {machine}"
    headings = ["cell", "T,B,I,H", "mode", "reference", "kernel", "ratio (quartiles)", "budget"]
    lines = []
    for result in results:
        ratio, wrong = result.ratio, not result.share_of_budget <= 1.0
        lines.append(
            [
                result.kind,
                ",".join(map(str, result.shape)),
                result.mode,
                f"{1e3 * result.reference.median:.3f}",
                f"{1e3 * result.kernel.median:.3f}",
                f"{ratio.median:.1f} ({ratio.lower:.1f}-{ratio.upper:.1f})",
                f"{result.share_of_budget:.3f}" + (" WRONG" if wrong else ""),
            ]
        )
    return _table(title, headings, lines, left=("cell", "mode"))


# -- against other libraries -------------------------------------------------------------------------------


def _run_peers(options: argparse.Namespace) -> int:
    from ..bench import chart, comparison, report, workers

    threads = options.thread_counts or [count for count in grid.THREADS if count <= workers.cpu_count()]
    if max(threads) > workers.cpu_count():
        raise InputError(
            f"--threads: expected at most {workers.cpu_count()}, the CPUs here, got {max(threads)}"
        )
    for path in (options.markdown, options.chart, options.json and Path(options.json)):
        if path and not path.parent.is_dir():
            raise InputError(f"{path}: expected a name in a folder, found no {path.parent}")
    if options.chart and not importlib.util.find_spec("matplotlib"):
        raise InputError("--chart: needs matplotlib, which is not installed: pip install 'rnnkernels[plots]'")
    try:
        rows = grid.select(options.rows, options.groups, options.cells, options.modes, options.dtypes)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    if not rows:
        raise InputError("--rows, --groups, --cells, --modes, --dtypes: expected rows in common, got none")

    def progress(made: Report, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if options.json != "-":
            _write_json(options.json, made.as_dict())  # each time anew, so that a run cut short is not lost

    made = comparison.run(rows, options.peers, threads, options.rounds, progress)
    _write_json(options.json, made.as_dict())
    if options.markdown:
        options.markdown.write_text(report.markdown(made))
    if options.chart:
        chart.draw(made, options.chart)
    if options.json != "-":
        _print_report(made)
    return 1 if any(result.failures for result in made.results) else 0


def _print_report(made: Report) -> None:
    from ..bench import report

    lines = [report.cells(result, made) for result in made.results]
    table = _table("", report.headings(made), lines, left=("row", "best peer"))
    console = Console(highlight=False)
    wide = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, wide)  # a line too long is of more use than one cut short
    for line in report.heading(made):
        console.print(line, markup=False)
    console.print(table)
    for line in report.closing(made):
        console.print(line, markup=False)


# -- what both use -----------------------------------------------------------------------------------------


def _table(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[str]) -> Table:
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _write_json(where: str | None, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1)
    if where == "-":
        print(text)
    elif where:
        Path(where).write_text(text + "\n")


def _shape(text: str) -> tuple[int, int, int, int]:
    T, B, I, H = (positive_int(part) for part in text.split(","))
    return T, B, I, H


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A type for argparse: values between commas, each counted once."""

    def parse(text: str) -> list[Any]:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))

    return parse


def _among(names: Sequence[str] | dict[str, str]) -> Callable[[str], str]:
    """A type for argparse: one of these names."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected names among {', '.join(names)}, got {text}")
        return text

    return parse
