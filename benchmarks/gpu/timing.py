"""Times the stepwise tier, replayed from a CUDA graph: `timing.py PROGRAM`, tests/cuda/stepwise.cu by nvcc.

Prints a JSON object a line: microseconds a step, x's projection and all gradients included, and the
workspace in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "emu"))
from stepwise import Job, inputs

from rnnkernels.testing import CellCase

SIZES = [
    (256, 16, 256),
    (256, 64, 256),
    (256, 16, 512),
    (256, 16, 1024),
    (256, 64, 1024),
    (64, 256, 1024),
    (64, 64, 2048),
]
REPLAYS = 15


def main(program: str) -> None:
    grid = [
        Job(kind, number, CellCase(T, B, H, H))
        for (T, B, H), number, kind in product(SIZES, ("bf16", "f16", "tf32", "f32"), ("lstm", "gru"))
    ]
    grid += [
        Job("lstm", "f64", CellCase(64, 64, 512, 512)),
        Job("gru_reset_before", "bf16", CellCase(256, 16, 512, 512)),
    ]
    grid += [Job("rnn_tanh", "bf16", CellCase(256, 16, 512, 512))]
    for job in grid:
        done = subprocess.run(
            [program, "time", str(REPLAYS)], input=inputs(job), capture_output=True, timeout=120
        )
        row = {
            "cell": job.kind,
            "dtype": job.number,
            "steps": job.case.T,
            "batch": job.case.B,
            "hidden": job.case.H,
        }
        if done.returncode:
            row["error"] = done.stderr.decode()
        for line in done.stdout.decode().splitlines():
            timed = json.loads(line)
            row[f"{timed['pass']}_us_per_step"] = round(1000 * timed["ms"] / job.case.T, 3)
            row[f"{timed['pass']}_workspace"] = timed["workspace"]
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
