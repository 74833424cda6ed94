"""Instructions of fixed problems, counted by Callgrind: a gate that no noise of the machine moves.

    python benchmarks/instructions.py            compare with instructions.json; 1 if one has grown
    python benchmarks/instructions.py --record   write it, after a change that is meant

Only what runs inside the front door of the CPU backend (csrc/cpu/dispatch.h) counts, so neither Python nor
NumPy matters.  Callgrind knows no AVX-512, so the AVX2 kernels run, on one thread.  Compilers differ, hence
the counts belong to one; under another nothing is compared, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 0.01
CALL = "rnnkernels::cpu::*(rnnkernels::*Execution const&)"
BINDING = (
    "rnnkernels::bindings::(anonymous namespace)::{}(pybind11::*"  # calls once; a file is written after it
)

# Name of a call into the backend -> its part of SCRIPT; a pair is a forward and a backward.
PROBLEMS = {
    ("lstm_forward-50,16,64,64",): "rk.lstm_forward(*arrays(4, 50, 16, 64, 64), save=False)",
    ("lstm_wide_forward-10,48,64,64",): "rk.lstm_forward(*arrays(4, 10, 48, 64, 64), save=False)",
    ("lstm_saving-20,16,64,64", "lstm_backward-20,16,64,64"): "train('lstm', 4, 20, 16, 64, 64)",
    ("lstm_saving-100,1,8,16", "lstm_backward-100,1,8,16"): "train('lstm', 4, 100, 1, 8, 16)",
    ("gru_saving-20,16,64,64", "gru_backward-20,16,64,64"): "train('gru', 3, 20, 16, 64, 64)",
    ("rnn_saving-20,16,64,64", "rnn_backward-20,16,64,64"): "train('rnn', 1, 20, 16, 64, 64)",
    (
        "lstm_ragged_saving-20,16,64,64",
        "lstm_ragged_backward-20,16,64,64",
    ): "train('lstm', 4, 20, 16, 64, 64, lengths=list(range(5, 21)))",
    ("head_forward-320,64,100", "head_backward-320,64,100"): "head(320, 64, 100)",
}

SCRIPT = """
import sys
import numpy as np
import rnnkernels as rk

def random(*shape):
    n = int(np.prod(shape))
    return np.sin(np.arange(1, n + 1, dtype=np.float32)).reshape(shape) / np.float32(8)

def arrays(G, T, B, I, H):
    return random(T, B, I), random(G * H, I), random(G * H, H), random(G * H), random(G * H)

def train(cell, *sizes, **options):
    result = getattr(rk, cell + "_forward")(*arrays(*sizes), **options)
    getattr(rk, cell + "_backward")(result.y, result.saved)

def head(N, H, V):
    targets = np.arange(N) % V
    loss, saved = rk.linear_cross_entropy_forward(random(N, H), random(V, H), random(V), targets)
    rk.linear_cross_entropy_backward(loss, saved)

with rk.config(num_threads=1, isa="avx2"):
    for problem in sys.argv[1:]:
        exec(problem)
"""


def count() -> dict[str, int]:
    """Instructions of every call: Callgrind writes a file after each."""
    names = [name for calls in PROBLEMS for name in calls]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        bindings = ("forward", "backward", "linear_cross_entropy_forward", "linear_cross_entropy_backward")
        options = [f"--toggle-collect={CALL}", *(f"--dump-after={BINDING.format(name)}" for name in bindings)]
        callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *options]
        command = [*callgrind, sys.executable, "-c", SCRIPT, *PROBLEMS.values()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        dumps = sorted(out.parent.glob("out.*"), key=lambda path: int(path.suffix[1:]))
        counts = [int(re.search(r"^summary: (\d+)", dump.read_text(), re.MULTILINE)[1]) for dump in dumps]
    if len(counts) != len(names):
        raise SystemExit(f"expected {len(names)} calls, found {len(counts)}: was the extension stripped?")
    return dict(zip(names, counts, strict=True))


def compiler() -> str:
    """Name and version of what builds here."""
    command = [os.environ.get("CXX", "c++"), "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def main() -> int:
    """Count, compare or record; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    record = parser.parse_args().record
    counts = count()
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if record:
        RECORD.write_text(json.dumps(known | {compiler(): counts}, indent=1) + "\n")
        return 0
    expected = known.get(compiler(), {})
    if not expected:
        print(f"nothing is recorded for {compiler()}; not compared")
    grown = []
    for name, instructions in counts.items():
        change = instructions / expected[name] - 1 if name in expected else None
        print(f"{name:34} {instructions:>12,}" + ("" if change is None else f" {change:+8.2%}"))
        if change is not None and change > TOLERANCE:
            grown.append(name)
    if grown:
        print(f"more instructions than recorded: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
