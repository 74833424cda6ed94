"""A process for each library: it checks, chooses the fastest way, and then times it, one turn at a time.

One at a time works; the others sleep on a pipe, and a turn ends only when the threads that worked in it sleep
too.  So thread pools do not meet, nor memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..testing import Array, relative_error
from .grid import Row
from .libraries import Library, load

TOLERANCES = {
    "float32": 1e-4,
    "bfloat16": 6e-2,
    "int8": 6e-2,
}  # relative to the largest magnitude of an array
TURN_SECONDS = 0.1
WARM_UP_SECONDS = 0.03
LONG_SECONDS = 0.5  # after which a turn ends with less than three calls


# -- in a worker process -----------------------------------------------------------------------------------


class Checked(NamedTuple):
    """What a library makes of a row.

    Attributes
    ----------
    ways
        Those that are right.
    failures
        What is wrong with others, by way; by "" with all of them.
    results
        The row's arrays.  Only of the library that the others are compared with.
    """

    ways: list[str]
    failures: dict[str, str]
    results: list[Array] | None


class Worker:
    """A library at work on one row after the other."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.calls: dict[str, Callable[[], Any]] = {}

    def check(self, row: Row, want: Sequence[Array] | None) -> Checked:
        """Compute the row in every way, and keep those that give `want`, or what the first gives."""
        self.calls = {}  # which lets go of the row before
        failures, results = {}, None
        try:
            ways = self.library.ways(row)
        except Exception as error:  # whatever a library may raise: it is reported, and the others go on
            return Checked([], {"": said(error)}, None)
        for name, way in ways.items():
            try:
                got = way.arrays(way.call())
            except Exception as error:
                failures[name] = said(error)
                continue
            if want is None:
                want = results = list(got)
            wrong = difference(row, got, want)
            if wrong:
                failures[name] = wrong
            else:
                self.calls[name] = way.call
        return Checked(list(self.calls), failures, results)

    def choose(self) -> str:
        """Keep the fastest way alone; the check has warmed up all of them."""
        if len(self.calls) > 1:
            fastest = min(self.calls, key=lambda name: median_seconds(self.calls[name], warm_up=0.0))
            self.calls = {fastest: self.calls[fastest]}
        return next(iter(self.calls))

    def turn(self) -> float:
        """Median seconds of a call."""
        (call,) = self.calls.values()
        return median_seconds(call, WARM_UP_SECONDS)


def difference(row: Row, got: Sequence[Array], want: Sequence[Array]) -> str:
    """Which array differs most, if any differs too much; else an empty string."""
    if len(got) != len(want):
        return f"{len(got)} arrays instead of {len(want)}"
    names = row.result_names()
    errors = {name: relative_error(*pair) for name, *pair in zip(names, got, want, strict=True)}
    worst = max(errors, key=lambda name: errors[name])
    return f"{worst} differs by {errors[worst]:.3g}" if not errors[worst] <= TOLERANCES[row.dtype] else ""


def said(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def median_seconds(call: Callable[[], Any], warm_up: float) -> float:
    """Of the calls that fill a turn, at least three unless they are long, after a `warm_up` of seconds."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_up:
        call()
    times: list[float] = []
    begin = start = time.perf_counter()
    while start - begin < (TURN_SECONDS if len(times) >= 3 else LONG_SECONDS):
        call()
        end = time.perf_counter()
        times.append(end - start)
        start = end
    return statistics.median(times)


def fall_asleep(limit: float = 2.0) -> None:
    """Wait until no thread of this process spins any more.

    Raises
    ------
    RuntimeError
        If they do not stop.
    """
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
    _worker = Worker(load(name, threads))
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
        self.name, self.threads = name, threads
        self._start()

    def _start(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self.version: str = self._process.submit(_start, self.name, self.threads).result()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the method of the `Worker` returns.

        After an exception, such as of a process that died, there is a new worker, which has checked nothing.
        """
        try:
            return self._process.submit(_ask, method, *arguments).result()
        except Exception:
            self.close()
            self._start()
            raise

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


@contextmanager
def few_cpus(threads: int) -> Iterator[None]:
    """Let processes that begin inside use the first CPUs alone, one a thread; JAX has no other way."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cpus)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
