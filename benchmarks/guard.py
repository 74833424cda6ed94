"""A subset of the benchmark against what was once recorded, by hand, before and after a change of kernels.

    python benchmarks/guard.py                time the subset and compare with the newest record of this CPU
    python benchmarks/guard.py --record FILE  with another file of `rnnkernels bench --peers ... --json FILE`
    python benchmarks/guard.py --made FILE    take the times from that file, of all rows that both have

It ends with 1 if a row is slower.  What is compared is how many times as fast as PyTorch it is, which moves
less with a machine's neighbours than its time does; slower is a row whose upper quartile lies a tenth below
the lower one on record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnkernels import info
from rnnkernels.bench import comparison, grid
from rnnkernels.bench.timing import Quartiles

RESULTS = Path(__file__).parent / "results"
ROWS = [
    "lstm-step-h256-inference",
    "lstm-stream-h512-*",
    "lstm-batch-h256-*",
    "lstm-batch-h1024-inference",
    "lstm-charlm-training",
    "lstm-tiny-*",
    "lstm-ragged-inference",
    "gru-stream-h128-training",
    "gru-batch-h256-*",
    "rnn-batch-h256-training",
    "lstm-stream-h512-inference-int8",
]
PEER = "torch"
SLOWER = 0.9

Ratios = dict[tuple[str, int], Quartiles]


def ratios(made: Mapping[str, Any]) -> Ratios:
    """Times as fast as the peer, by row and threads, of a file of the benchmark."""
    return {
        (result["name"], result["threads"]): Quartiles(**result["times_as_fast"][PEER])
        for result in made["results"]
        if PEER in result["times_as_fast"]
    }


def slower(now: Quartiles, recorded: Quartiles) -> bool:
    """Beyond what rounds scatter."""
    return now.upper < SLOWER * recorded.lower


def record_of(cpu: str, isa: str) -> Path:
    """The newest file of results on that processor.

    Raises
    ------
    SystemExit
        If there is none.
    """
    files = [(json.loads(path.read_text()), path) for path in sorted(RESULTS.glob("*.json"))]
    of_cpu = [
        (made["date"], path)
        for made, path in files
        if isinstance(made, dict) and (made.get("cpu"), made.get("isa")) == (cpu, isa)
    ]
    if not of_cpu:
        raise SystemExit(f"no results of {cpu} ({isa}) in {RESULTS}: --record names a file")
    return max(of_cpu)[1]


def compare(now: Ratios, recorded: Ratios) -> list[str]:
    """Print every row that both have; the names of those that are slower."""
    found = []
    print(f"{'times as fast as ' + PEER:44} {'recorded':>20} {'now':>20}")
    for key in [key for key in recorded if key in now]:
        cells = [f"{r.median:.2f} ({r.lower:.2f}-{r.upper:.2f})" for r in (recorded[key], now[key])]
        mark = "  SLOWER" if slower(now[key], recorded[key]) else ""
        print(f"{key[0] + f', threads: {key[1]}':44} {cells[0]:>20} {cells[1]:>20}{mark}")
        if mark:
            found.append(key[0])
    return found


def main() -> int:
    """Time or read, and compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--made", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    facts = info()
    record = options.record or record_of(facts["cpu"], facts["isa"])
    recorded = ratios(json.loads(record.read_text()))
    if options.made:
        made = json.loads(options.made.read_text())
    else:
        threads = max(count for _, count in recorded)
        rows = grid.select(ROWS, dtypes=grid.DTYPES)
        made = comparison.run(rows, [PEER], [threads], options.rounds).as_dict()
    found = compare(ratios(made), recorded)
    if found:
        print(f"slower than recorded: {', '.join(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
