"""Threads: calls from several at once share nothing and give the same bits; ours leave no trace on theirs."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnkernels as rk

rng = np.random.default_rng(0)


def problem(T: int, B: int, I: int, H: int) -> dict[str, Any]:
    shapes = {"x": (T, B, I), "w_ih": (4 * H, I), "w_hh": (4 * H, H), "b_ih": (4 * H,), "h0": (B, H)}
    return {name: 0.1 * rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def test_the_gil_is_released() -> None:
    big = problem(200, 32, 128, 128)
    span: list[float] = []

    def call() -> None:
        with rk.config(num_threads=1, isa="scalar"):
            span.append(time.perf_counter())
            rk.lstm_forward(**big)
            span.append(time.perf_counter())

    thread = threading.Thread(target=call)
    seen = []
    thread.start()
    while thread.is_alive():
        seen.append(time.perf_counter())
        time.sleep(0.001)
    begin, end = span
    within = [moment for moment in seen if begin + 0.2 * (end - begin) < moment < end - 0.2 * (end - begin)]
    assert end - begin > 0.01
    assert within


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_concurrent_calls_give_the_same_bits(num_threads: int) -> None:
    problems = [problem(12, 1 + k, 20, 24 + k) for k in range(4)]
    packs = [rk.pack("lstm", [[(p["w_ih"], p["w_hh"], p["b_ih"], None)]]) for p in problems]

    def run(k: int) -> list[Any]:
        with rk.config(num_threads=num_threads):
            p = problems[k % 4]
            result = rk.lstm_forward(**p, lengths=[12 - b for b in range(p["x"].shape[1])])
            grads = rk.lstm_backward(result.y, result.saved, result.h_n)
            y, (h, c) = packs[k % 4].forward(p["x"], (p["h0"][None], 2 * p["h0"][None]))
            return [*result[:-1], *(g for g in grads if g is not None), y, h, c]

    want = [run(k) for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for k, got in enumerate(pool.map(run, range(64))):
            for mine, its in zip(got, want[k % 4], strict=True):
                np.testing.assert_array_equal(mine, its)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no sched_setaffinity")
def test_workers_may_run_where_the_process_may() -> None:
    """A worker that wakes on its caller's CPU leaves it, by an affinity that must not last."""
    allowed = os.sched_getaffinity(0)
    wide = problem(20, 40, 64, 128)
    for _ in range(5):
        time.sleep(0.03)  # long enough for the workers to sleep
        with rk.config(num_threads=3):
            rk.lstm_forward(**wide)
    for thread in Path("/proc/self/task").iterdir():
        assert os.sched_getaffinity(int(thread.name)) == allowed
