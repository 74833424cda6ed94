"""The benchmark against other libraries: every row checked, timed in turns, and compared round by round."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import info
from .floor import Floor
from .grid import Row
from .libraries import OURS, OWN_FLOAT32
from .timing import Quartiles, ratios
from .workers import Candidate, Checked, few_cpus, said


@dataclass(frozen=True)
class Result:
    """What the rounds of a row gave.

    Attributes
    ----------
    ways
        How each library computed it; those that could not are absent.
    seconds
        Of each library, by round.
    floor
        Least seconds, by round; None where it was not measured.
    failures
        What went wrong, by library and way.
    """

    row: Row
    threads: int
    ways: dict[str, str]
    seconds: dict[str, list[float]]
    floor: list[float] | None
    failures: dict[str, str]

    def milliseconds(self) -> float:
        """Our median."""
        return 1e3 * statistics.median(self.seconds[OURS])

    def share(self) -> Quartiles | None:
        """Of the floor in our time: 1 cannot be beaten."""
        return ratios(self.floor, self.seconds[OURS]) if self.floor else None

    def times_as_fast(self) -> dict[str, Quartiles]:
        """How many times as fast as each peer we are."""
        return {name: ratios(times, self.seconds[OURS]) for name, times in self._peers().items()}

    def against_the_best(self) -> Quartiles | None:
        """How many times as fast as the fastest other library of each round; None if none took part."""
        rounds = [min(times) for times in zip(*self._others().values(), strict=True)]
        return ratios(rounds, self.seconds[OURS]) if rounds else None

    def best(self) -> str | None:
        """The other library with the lowest median."""
        others = self._others()
        return min(others, key=lambda name: statistics.median(others[name]), default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        share, best = self.share(), self.against_the_best()
        return {
            "name": self.row.name,
            **asdict(self.row),
            "threads": self.threads,
            "ways": self.ways,
            "seconds": self.seconds,
            "floor_seconds": self.floor,
            "share_of_floor": share and share._asdict(),
            "times_as_fast": {name: ratio._asdict() for name, ratio in self.times_as_fast().items()},
            "times_as_fast_as_the_best": best and best._asdict(),
            "best": self.best(),
            "failures": self.failures,
        }

    def _peers(self) -> dict[str, list[float]]:
        return {name: times for name, times in self.seconds.items() if name != OURS}

    def _others(self) -> dict[str, list[float]]:
        return {name: times for name, times in self._peers().items() if name != OWN_FLOAT32}


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes
    ----------
    conditions
        Date, machine, versions and rounds.
    absent
        Why a peer took no part at all, by name.
    machine
        Operations and bytes a second, by number of threads.
    """

    conditions: dict[str, Any]
    peers: list[str]
    absent: dict[str, str] = field(default_factory=dict)
    machine: dict[int, dict[str, float]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.conditions,
            "absent": self.absent,
            "machine": self.machine,
            "results": [result.as_dict() for result in self.results],
        }


def run(
    rows: Sequence[Row],
    peers: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    progress: Callable[[Report, str], None] = lambda report, line: None,
) -> Report:
    """Compare with the peers that are installed, on each of these numbers of threads.

    Parameters
    ----------
    progress
        Is told of every row when it is done, with what there is until then.
    """
    report = Report(_conditions(rounds), [])
    with tempfile.TemporaryDirectory() as folder:
        floor = Floor(folder)
        if floor.missing:
            report.absent["share of the floor"] = floor.missing
        for count in threads:
            with few_cpus(count), ExitStack() as stack:
                candidates = []
                for name in (OURS, *peers):
                    try:
                        candidates.append(Candidate(name, count))
                    except Exception as error:  # not installed, or installed and broken
                        if name == OURS:
                            raise
                        report.absent[name] = said(error)
                    else:
                        stack.callback(candidates[-1].close)
                report.conditions["versions"] |= {other.name: other.version for other in candidates}
                machine = floor.machine(count)
                if machine:
                    report.machine[count] = machine
                for row in rows:
                    begin = time.monotonic()
                    report.results.append(compare(row, count, candidates, floor, rounds))
                    progress(report, f"{row.name}, threads: {count}: {time.monotonic() - begin:.1f} s")
    report.peers.extend(name for name in peers if name not in report.absent)
    return report


def compare(row: Row, threads: int, candidates: Sequence[Candidate], floor: Floor, rounds: int) -> Result:
    """Check, then time in turns; the first candidate is ours.

    Raises
    ------
    RuntimeError
        If it is ours that fails.
    """
    failures: dict[str, str] = {}
    want, ways = None, {}
    for candidate in candidates:
        try:
            checked: Checked = candidate.ask("check", row, want)
            failures |= {f"{candidate.name} {way}".strip(): why for way, why in checked.failures.items()}
            want = want or checked.results
            if checked.ways:
                ways[candidate.name] = candidate.ask("choose")
        except Exception as error:
            failures[candidate.name] = said(error)
        if candidate.name == OURS and (failures or not ways):
            raise RuntimeError(f"{row.name}: {failures or 'no way to compute it'}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    floors = []
    for turn in range(rounds):
        for candidate in _rotated([one for one in candidates if one.name in seconds], turn):
            try:
                seconds[candidate.name].append(candidate.ask("turn"))
            except Exception as error:
                if candidate.name == OURS:
                    raise
                failures[candidate.name] = said(error)
                del seconds[candidate.name], ways[candidate.name]
        floors.append(floor.seconds(row, threads))
    measured = [least for least in floors if least is not None]
    return Result(row, threads, ways, seconds, measured or None, failures)


def _rotated(candidates: Sequence[Candidate], turn: int) -> Iterator[Candidate]:
    """Every round begins with another one."""
    first = turn % len(candidates)
    return iter([*candidates[first:], *candidates[:first]])


def _conditions(rounds: int) -> dict[str, Any]:
    facts = info()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": facts["cpu"],
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "isa": facts["isa"],
        "rounds": rounds,
        "versions": {"Python": platform.python_version()},
    }
