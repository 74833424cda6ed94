"""No kernel reads or writes beside its arrays, or writes to its inputs.

guard.py tells how; it runs in a process of its own, which may die of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelcases import ISAS, SANITIZED

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages as Linux does")

TESTS = Path(__file__).parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=900, cwd=TESTS
    )


@pytest.mark.parametrize("isa", ISAS)
def test_kernels_between_guard_pages(isa: str) -> None:
    done = run("guard.py", isa)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr}"
    assert last[0].endswith("cases")
    assert int(last[0].split()[0]) >= (200 if SANITIZED else 1000)


PRELUDE = """
import ctypes
import numpy as np
from guard import guarded, guarded_results
a = np.arange(5, dtype=np.float32)
def made(side):
    with guarded_results(side):
        return np.zeros(5, np.float32)
"""


@pytest.mark.parametrize(
    ("text", "dies"),
    [
        ("assert guarded(a, 'end').tobytes() == guarded(a, 'start').tobytes() == a.tobytes()", False),
        ("m = guarded(a, 'end'); ctypes.string_at(m.ctypes.data, 20)", False),
        ("m = guarded(a, 'end'); ctypes.string_at(m.ctypes.data, 21)", True),
        ("m = guarded(a, 'start'); ctypes.string_at(m.ctypes.data, 20)", False),
        ("m = guarded(a, 'start'); ctypes.string_at(m.ctypes.data - 1, 1)", True),
        ("m = guarded(a, 'end'); ctypes.memset(m.ctypes.data, 0, 1)", True),
        ("m = made('end'); ctypes.memset(m.ctypes.data, 0, 20)", False),
        ("m = made('end'); ctypes.memset(m.ctypes.data, 0, 21)", True),
        ("m = made('start'); ctypes.memset(m.ctypes.data, 0, 20)", False),
        ("m = made('start'); ctypes.memset(m.ctypes.data - 1, 0, 1)", True),
    ],
)
def test_the_pages_do_guard(text: str, dies: bool) -> None:
    done = run("-c", PRELUDE + text + "\nprint('alive')")
    assert (done.returncode != 0) == dies, done.stderr
    assert ("alive" in done.stdout) != dies, done.stderr
