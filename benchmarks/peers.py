"""rnnkernels against PyTorch and JAX on one layer: the same weights, results checked before timing, in turns.

Every library (libraries.py) has a process of its own, so that thread pools and memory do not mix.  One at a
time works; the others sleep on a pipe, and a turn ends only when the threads that worked in it sleep too.
Where a library can compute the same in several ways, its fastest one here takes the turns.  README.md tells
how to read the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libraries import KINDS, LIBRARIES, Call, Library, Row

import rnnkernels as rk
from rnnkernels.bench import Quartiles, ratios
from rnnkernels.bench.cases import MODES, SHAPES
from rnnkernels.testing import Array, relative_error

OURS = "rnnkernels"
TOLERANCE = 1e-4  # relative to the largest magnitude of an array
TURN_SECONDS = 0.1
WARM_UP_SECONDS = 0.03


# -- in a worker process -----------------------------------------------------------------------------------


class Worker:
    """A library at work on one row after the other."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.ways: dict[str, Call] = {}

    def results(self, row: Row) -> dict[str, list[Array]]:
        """What each way of computing `row` gives."""
        self.ways = {}  # which lets go of the row before
        self.ways = self.library.ways(row)
        return {name: self.library.arrays(call()) for name, call in self.ways.items()}

    def choose(self) -> str:
        """Leave only the fastest way."""
        if len(self.ways) > 1:
            fastest = min(self.ways, key=lambda name: median_seconds(self.ways[name]))
            self.ways = {fastest: self.ways[fastest]}
        return next(iter(self.ways))

    def turn(self) -> float:
        """Median seconds of a call."""
        (call,) = self.ways.values()
        return median_seconds(call)


def median_seconds(call: Call) -> float:
    """Of as many calls as fill a turn, at least three, after a warm-up of at least one."""
    begin = time.perf_counter()
    call()
    while time.perf_counter() - begin < WARM_UP_SECONDS:
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < TURN_SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fall_asleep(limit: float = 2.0) -> None:
    """Wait until no thread of this process spins any more."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 1e-3:
            return
    raise RuntimeError(
        f"threads still spin {limit} s after the work; is OMP_WAIT_POLICY or KMP_BLOCKTIME set?"
    )


_worker: Worker  # of this process, where it is one


def _start(name: str, threads: int) -> str:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    _worker = Worker(LIBRARIES[name](threads))
    return _worker.library.version


def _ask(method: str, *arguments: Any) -> Any:
    answer = getattr(_worker, method)(*arguments)
    fall_asleep()
    return answer


# -- in the main process -----------------------------------------------------------------------------------


class Candidate:
    """A library, by its worker process.

    Raises
    ------
    ImportError
        If the library is not there.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self.version: str = self._process.submit(_start, name, threads).result()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        return self._process.submit(_ask, method, *arguments).result()

    def close(self) -> None:
        self._process.shutdown()


class Floor:
    """The speed of the machine, by floor.cpp; None where there is no compiler to build it."""

    def __init__(self, threads: int, folder: str) -> None:
        self.threads, self.binary = threads, Path(folder) / "floor"
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        flags = ["-std=c++17", "-O3", "-march=native", "-pthread", "-o", str(self.binary)]
        try:
            subprocess.run([*compiler, *flags, str(Path(__file__).with_name("floor.cpp"))], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no share of the floor: {error}", file=sys.stderr)
            self.binary.unlink(missing_ok=True)

    def seconds(self, row: Row) -> float | None:
        """The least time that `row` can take now."""
        if not self.binary.exists():
            return None
        command = [str(self.binary), str(self.threads), str(recurrent_bytes(row))]
        rates = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return floor_seconds(row, **rates)


def recurrent_bytes(row: Row) -> int:
    """Of w_hh, which every step reads."""
    return 4 * row.gates * row.shape[3] ** 2


def floor_seconds(row: Row, flops: float, bytes: float) -> float:
    """Least seconds of `row` at so many operations and bytes a second.

    The products alone, at the peak; in the recurrence a step takes at least as long as w_hh to be read.
    """
    T, B, I, H = row.shape
    projection = 2 * T * B * row.gates * H * I / flops
    product = 2 * T * B * row.gates * H * H / flops
    recurrence = max(product, T * recurrent_bytes(row) / bytes)
    forward = projection + recurrence
    backward = recurrence + 2 * projection + product  # dh; dx and dw_ih; dw_hh
    return forward + backward if row.mode == "training" else forward


@dataclass(frozen=True)
class Result:
    """What the rounds of a row gave.

    Attributes
    ----------
    ways
        How each library computed it.
    seconds
        Of each library, by round.
    floor
        Least seconds, by round; None where it was not measured.
    """

    row: Row
    ways: dict[str, str]
    seconds: dict[str, list[float]]
    floor: list[float] | None

    def share(self) -> Quartiles | None:
        """Of the floor in our time: 1 cannot be beaten."""
        return ratios(self.floor, self.seconds[OURS]) if self.floor else None

    def times_as_fast(self) -> dict[str, Quartiles]:
        """How many times as fast as each peer we are, and, if there are any, as the faster of each round."""
        peers = {name: times for name, times in self.seconds.items() if name != OURS}
        if peers:
            peers["the better"] = [min(times) for times in zip(*peers.values(), strict=True)]
        return {name: ratios(times, self.seconds[OURS]) for name, times in peers.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        share = self.share()
        return {
            **self.row._asdict(),
            "ways": self.ways,
            "seconds": self.seconds,
            "floor_seconds": self.floor,
            "share_of_floor": share and share._asdict(),
            "times_as_fast": {name: ratio._asdict() for name, ratio in self.times_as_fast().items()},
        }


def compare(row: Row, candidates: Sequence[Candidate], floor: Floor, rounds: int) -> Result:
    """Check, then time in turns."""
    begin = time.monotonic()
    check(row, {candidate.name: candidate.ask("results", row) for candidate in candidates})
    ways = {candidate.name: candidate.ask("choose") for candidate in candidates}
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    floors = []
    for turn in range(rounds):
        first = turn % len(candidates)
        for candidate in (*candidates[first:], *candidates[:first]):
            seconds[candidate.name].append(candidate.ask("turn"))
        floors.append(floor.seconds(row))
    measured = [least for least in floors if least is not None]
    print(f"{row}: {time.monotonic() - begin:.1f} s", file=sys.stderr)
    return Result(row, ways, seconds, measured or None)


def check(row: Row, results: Mapping[str, Mapping[str, Sequence[Array]]]) -> None:
    """Compare every library's every way with the first.

    Raises
    ------
    ValueError
        Names what differs.
    """
    names = ["y", "h_n", *(["c_n"] if row.cell == "lstm" else [])]
    names += ["dx", "dw_ih", "dw_hh", "db_ih", "db_hh"] if row.mode == "training" else []
    first = next(iter(next(iter(results.values())).values()))
    for library, ways in results.items():
        for way, arrays in ways.items():
            for name, got, want in zip(names, arrays, first, strict=True):
                error = relative_error(got, want)
                if not error <= TOLERANCE:
                    raise ValueError(f"{row}: {name} of {library} ({way}) differs by {error:.3g}")


# -- what is printed ---------------------------------------------------------------------------------------


def heading(conditions: Mapping[str, Any]) -> str:
    """Machine and versions."""
    text = "{date}, {cpu} ({cpus} CPUs, {isa}), threads: {threads}, rounds: {rounds}, {dtype}.".format(
        **conditions
    )
    text += "\n" + ", ".join(f"{name} {version}" for name, version in conditions["versions"].items()) + "."
    if conditions["absent"]:
        text += f"\nLeft out: {', '.join(conditions['absent'])}."
    return text


def table(results: Sequence[Result]) -> str:
    """Markdown: medians of the rounds, and the quartiles of each round's ratios."""
    peers = [name for name in results[0].seconds if name != OURS]
    headings = ["cell", "T,B,I,H", "mode", f"{OURS} ms", "share of floor"]
    headings += itertools.chain.from_iterable((f"{name} ms", "times as fast") for name in peers)
    headings += ["as the better"] if peers else []
    lines = [headings, ["---"] * 3 + ["--:"] * (len(headings) - 3)]
    for result in results:
        share, times_as_fast = result.share(), result.times_as_fast()
        cells = [result.row.cell, ",".join(map(str, result.row.shape)), result.row.mode]
        cells += [milliseconds(result.seconds[OURS]), f"{share.median:.0%}" if share else "-"]
        for name in peers:
            cells += [milliseconds(result.seconds[name]), spread(times_as_fast[name])]
        cells += [spread(times_as_fast["the better"])] if peers else []
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def milliseconds(times: Sequence[float]) -> str:
    median = 1e3 * statistics.median(times)
    return f"{median:.2f}" if median >= 1 else f"{median:.4f}"


def spread(ratio: Quartiles) -> str:
    return f"{ratio.median:.2f} ({ratio.lower:.2f}-{ratio.upper:.2f})"


def summary(results: Sequence[Result]) -> str:
    """The lowest lower quartile against the better peer, or that there is none."""
    lowest = {result.row: result.times_as_fast().get("the better") for result in results}
    lower = {row: ratio.lower for row, ratio in lowest.items() if ratio}
    if not lower:
        return "No peer is installed."
    row = min(lower, key=lambda row: lower[row])
    return f"Lowest lower quartile against the better peer: {lower[row]:.2f} ({row})."


def main() -> None:
    options = parse()
    if hasattr(os, "sched_setaffinity"):  # for us, every peer and the floor; JAX has no other way
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    candidates, absent = [], []
    try:
        for name in LIBRARIES:
            try:
                candidates.append(Candidate(name, options.threads))
            except ImportError as error:
                absent.append(f"{name} ({error})")
        with tempfile.TemporaryDirectory() as folder:
            floor = Floor(options.threads, folder)
            rows = itertools.starmap(Row, itertools.product(options.cells, options.shapes, options.modes))
            results = [compare(row, candidates, floor, options.rounds) for row in rows]
    finally:
        for candidate in candidates:
            candidate.close()
    conditions = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": rk.info()["cpu"],
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "isa": rk.info()["isa"],
        "threads": options.threads,
        "rounds": options.rounds,
        "dtype": "float32",
        "versions": {
            "Python": platform.python_version(),
            **{candidate.name: candidate.version for candidate in candidates},
        },
        "absent": absent,
    }
    if options.json:
        report = conditions | {"results": [result.as_dict() for result in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{heading(conditions)}\n\n{table(results)}\n\n{summary(results)}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--shapes", nargs="+", type=_shape, default=SHAPES, metavar="T,B,I,H")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=_positive, default=9, help="default: %(default)s")
    parser.add_argument("--threads", type=_positive, default=min(2, cpus), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file, too")
    options = parser.parse_args(arguments)
    if options.threads > cpus:
        parser.error(f"--threads: expected at most {cpus}, the CPUs of this process, got {options.threads}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: no folder {options.json.parent}")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def _shape(text: str) -> tuple[int, int, int, int]:
    T, B, I, H = (_positive(part) for part in text.split(","))
    return T, B, I, H


if __name__ == "__main__":
    main()
