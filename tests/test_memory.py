"""Memory of calls: scratch and large results lie in blocks that earlier calls left; nobody may notice."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import rnnkernels as rk
from kernelcases import SANITIZED

rng = np.random.default_rng(0)
LARGE = 1 << 16  # bytes from which results lie in such blocks


def problem(T: int, B: int, I: int, H: int) -> dict[str, Any]:
    shapes = {"x": (T, B, I), "w_ih": (4 * H, I), "w_hh": (4 * H, H), "b_ih": (4 * H,), "h0": (B, H)}
    return {name: 0.1 * rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def run(p: dict[str, Any]) -> list[np.ndarray]:
    """The arrays of a training step."""
    result = rk.lstm_forward(**p)
    grads = rk.lstm_backward(result.y, result.saved)
    return [*result[:-1], result.saved.gates, result.saved.c, *(g for g in grads if g is not None)]


def test_memory_that_a_call_left_behind_is_not_seen() -> None:
    """Scratch memory is kept between calls: NaN of one must not reach the next."""
    healthy, sick = problem(9, 40, 64, 100), problem(9, 40, 64, 100)
    for array in sick.values():
        array.fill(np.nan)

    want = run(healthy)
    assert np.isnan(run(sick)[0]).all()
    for mine, its in zip(run(healthy), want, strict=True):
        np.testing.assert_array_equal(mine, its)
        assert np.isfinite(mine).all()


def test_large_results_lie_on_cache_lines() -> None:
    large = [array for array in run(problem(9, 40, 64, 100)) if array.nbytes >= LARGE]
    assert len(large) >= 5
    for array in large:
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable


def test_no_call_takes_what_is_still_held() -> None:
    """Neither an array nor a view whose array is gone."""
    p = problem(9, 40, 64, 100)
    held = [array[1:] for array in run(p) if array.ndim > 1]
    copies = [array.copy() for array in held]
    for _ in range(3):
        run(problem(9, 40, 64, 100))
        gc.collect()
    for array, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(bool(SANITIZED), reason="sanitizers hold on to memory themselves")
def test_what_is_kept_has_an_end() -> None:
    """Steps of many sizes, 30 MiB and more of results each: most of it goes back to the system."""
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 700


GROW = """
import os
import numpy as np
import rnnkernels as rk
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
w = np.zeros((512, 128), np.float32)
before = resident()
for n in range(60):
    x = np.ones((60 + 2 * n, 100, 128), np.float32)
    result = rk.lstm_forward(x, w, w)
    rk.lstm_backward(result.y, result.saved)
print(resident() - before)
"""
