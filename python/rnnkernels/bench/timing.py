"""Rounds in which every candidate is timed once, and the quartiles of what comes out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile of some rounds."""

    lower: float
    median: float
    upper: float


def take_turns(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 9, min_seconds: float = 0.05
) -> dict[str, list[float]]:
    """Seconds a call of each candidate in each round.

    Parameters
    ----------
    candidates
        What to time, by name.  Each is called once before, untimed.
    rounds
        Every round times every candidate, each round beginning with another one.
    min_seconds
        A candidate is called as often within a round as fills this time by the fastest of three calls, and at
        least once.

    Raises
    ------
    ValueError
        If `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    calls = {}
    for name, candidate in candidates.items():
        candidate()
        once = min(_seconds(candidate, 1) for _ in range(3))
        calls[name] = max(1, round(min_seconds / max(once, 1e-9)))
    names = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(candidates[name], calls[name]))
    return times


def _seconds(candidate: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        candidate()
    return (time.perf_counter() - start) / calls


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles of at least one value, by linear interpolation."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(baseline: Sequence[float], candidate: Sequence[float]) -> Quartiles:
    """How many times as fast as `baseline` the candidate was, round by round."""
    return quartiles([slow / fast for slow, fast in zip(baseline, candidate, strict=True)])
