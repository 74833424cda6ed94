"""The benchmark against other libraries: what each computes, the floor, and that nothing wrong is timed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kernelcases import SANITIZED
from rnnkernels import reference
from rnnkernels.bench import Quartiles
from rnnkernels.testing import assert_within_budget

FOLDER = Path(__file__).parent.parent / "benchmarks"
SHAPE = (3, 2, 4, 5)
CELLS = ("lstm", "gru", "rnn")
MODES = ("inference", "training")


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("libraries")


@pytest.fixture
def peers(libraries: ModuleType) -> ModuleType:
    return importlib.import_module("peers")


@pytest.fixture
def torch_settings() -> Iterator[None]:
    torch: Any = importlib.import_module("torch")
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    yield
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = onednn


def assert_computes(library: Any, row: Any) -> None:
    """Every way gives what the reference gives in float64."""
    problem = row.problem().as_float64()
    *outputs, saved = problem.forward(reference)
    want = outputs + (list(problem.backward(reference, saved)[:5]) if row.mode == "training" else [])
    for way, call in library.ways(row).items():
        for number, (got, truth) in enumerate(zip(library.arrays(call()), want, strict=True)):
            assert_within_budget(got, truth, "gradient", name=f"{way}, array {number}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
class TestLibraries:
    def test_ours(self, libraries: ModuleType, cell: str, mode: str) -> None:
        assert_computes(libraries.RnnKernels(1), libraries.Row(cell, SHAPE, mode))

    @pytest.mark.torch
    @pytest.mark.usefixtures("torch_settings")
    def test_pytorch(self, libraries: ModuleType, cell: str, mode: str) -> None:
        assert_computes(libraries.PyTorch(1), libraries.Row(cell, SHAPE, mode))

    @pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
    def test_jax(self, libraries: ModuleType, cell: str, mode: str) -> None:
        assert_computes(libraries.Jax(1), libraries.Row(cell, SHAPE, mode))


def test_a_wrong_result_is_refused(libraries: ModuleType, peers: ModuleType) -> None:
    row = libraries.Row("gru", SHAPE, "training")
    library = libraries.RnnKernels(1)
    right = library.arrays(library.ways(row)["level 0"]())
    wrong = [array.copy() for array in right]
    wrong[4][0, 0] += 1e-3 * np.abs(wrong[4]).max()
    peers.check(row, {"rnnkernels": {"level 0": right}, "other": {"a": right}})
    with pytest.raises(ValueError, match=r"gru 3,2,4,5 training: dw_hh of other \(b\) differs by 0.001"):
        peers.check(row, {"rnnkernels": {"level 0": right}, "other": {"a": right, "b": wrong}})


def test_the_floor_counts_operations_and_bytes(libraries: ModuleType, peers: ModuleType) -> None:
    inference, training = (libraries.Row("lstm", (100, 1, 8, 16), mode) for mode in MODES)
    products = 2 * 100 * 64 * (8 + 16)
    assert peers.floor_seconds(inference, 1e9, np.inf) == pytest.approx(products / 1e9)
    assert peers.floor_seconds(training, 1e9, np.inf) == pytest.approx(3 * products / 1e9)
    weights = 4 * 64 * 16
    assert peers.floor_seconds(inference, np.inf, 1e9) == pytest.approx(100 * weights / 1e9)
    assert peers.floor_seconds(training, np.inf, 1e9) == pytest.approx(200 * weights / 1e9)


def test_the_table(libraries: ModuleType, peers: ModuleType) -> None:
    times = {"rnnkernels": [1e-3, 1e-3, 2e-3], "A": [2e-3, 4e-3, 4e-3], "B": [3e-3, 1e-3, 9e-3]}
    row = libraries.Row("rnn", SHAPE, "inference")
    result = peers.Result(row, dict.fromkeys(times, "scan"), times, [5e-4, 5e-4, 1e-3])
    assert result.share() == Quartiles(0.5, 0.5, 0.5)
    assert result.times_as_fast() == {
        "A": Quartiles(2.0, 2.0, 3.0),
        "B": Quartiles(2.0, 3.0, 3.75),
        "the better": Quartiles(1.5, 2.0, 2.0),
    }
    assert peers.table([result]).splitlines()[2] == (
        "| rnn | 3,2,4,5 | inference | 1.00 | 50% | 4.00 | 2.00 (2.00-3.00) | 3.00 | 3.00 (2.00-3.75) "
        "| 2.00 (1.50-2.00) |"
    )
    assert peers.summary([result]).endswith("1.50 (rnn 3,2,4,5 inference).")


def test_spinning_threads_are_noticed(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    peers.fall_asleep()
    monkeypatch.setattr(peers.time, "process_time", lambda: peers.time.monotonic())
    with pytest.raises(RuntimeError, match="still spin"):
        peers.fall_asleep(limit=0.05)


@pytest.mark.skipif(
    bool(SANITIZED), reason="a compiler and fresh processes, with nothing of ours to sanitize"
)
def test_the_script(libraries: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "peers.py"), "--cells", "rnn", "--shapes", "3,2,4,5"]
    command += [
        "--modes",
        "inference",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "out.json"),
    ]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads((tmp_path / "out.json").read_text())
    (result,) = report["results"]
    present = {name for name in libraries.LIBRARIES if name in report["versions"]}
    assert len(present) + len(report["absent"]) == len(libraries.LIBRARIES)
    assert "rnnkernels" in present
    assert set(result["seconds"]) == set(result["ways"]) == present
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result["seconds"].values())
    assert "| rnn | 3,2,4,5 | inference |" in table
