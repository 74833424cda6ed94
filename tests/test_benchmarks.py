"""The benchmark against other libraries: what each computes, the floor, and that nothing wrong is timed."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernelcases import SANITIZED
from rnnkernels import reference
from rnnkernels.bench import Quartiles, chart, comparison, floor, grid, report, workers
from rnnkernels.bench.cases import MODES
from rnnkernels.bench.comparison import Report, Result
from rnnkernels.bench.grid import CELLS, GRID, Row
from rnnkernels.bench.libraries import LIBRARIES, OURS, OWN_FLOAT32, PEERS, Way, load
from rnnkernels.testing import Array, as_float64, assert_within_budget

ROOT = Path(__file__).parents[1]
SMALL = Row("small", "group", 5, 3, 4, 6)
STRUCTURES = {
    "step": replace(SMALL, T=1),
    "deep": replace(SMALL, layers=2, directions=2),
    "ragged": replace(SMALL, ragged=True),
}
needs_processes = pytest.mark.skipif(
    bool(SANITIZED), reason="a compiler and fresh processes, with nothing of ours to sanitize"
)


# -- the grid ----------------------------------------------------------------------------------------------


def test_the_grid() -> None:
    assert len({row.name for row in GRID}) == len(GRID)
    assert {(row.cell, row.mode) for row in GRID} == {(cell, mode) for cell in CELLS for mode in MODES}
    assert {row.B for row in GRID if row.group == "latency"} == {1}
    assert {row.H for row in GRID if row.group == "batched"} == {256, 512, 1024, 2048}
    assert {(row.T, row.B, row.I, row.H) for row in GRID if row.group == "charlm"} == {(128, 50, 65, 128)}
    assert {row.dtype for row in GRID} == set(grid.DTYPES) == set(workers.TOLERANCES)
    assert {row.mode for row in GRID if row.dtype == "int8"} == {"inference"}
    assert replace(SMALL, dtype="bfloat16").name == "lstm-small-inference-bfloat16"


def test_rows_are_selected() -> None:
    assert grid.select(dtypes=grid.DTYPES) == list(GRID)
    assert {row.dtype for row in grid.select()} == {"float32"}
    names = [row.name for row in grid.select(["lstm-step-*", "gru-tiny-training"], modes=["inference"])]
    assert names == [f"lstm-step-h{H}-inference" for H in (128, 256, 512, 1024)]
    assert {row.dtype for row in grid.select(["lstm-*"], dtypes=["int8"])} == {"int8"}
    assert grid.select(["*-int8"]) == []
    assert {row.group for row in grid.select(groups=["tiny"], cells=["rnn"])} == {"tiny"}
    with pytest.raises(ValueError, match=r"rows: expected names like .*, got lstm-step$"):
        grid.select(["lstm-step"])


def test_ragged_lengths_run_from_1_to_T() -> None:
    (row,) = grid.select(["gru-ragged-training"])
    problem = row.problem()
    assert problem.lengths is not None
    assert problem.lengths.min() >= 1
    assert problem.lengths.max() == row.T
    assert len(set(problem.lengths)) > 10
    padding = np.arange(row.T)[:, None] >= problem.lengths
    assert not problem.x[padding].any()
    assert not problem.dy[padding].any()
    assert np.array_equal(problem.x, row.problem().x)


# -- the libraries -----------------------------------------------------------------------------------------


def truth(row: Row) -> list[Array]:
    """By the reference in float64."""
    problem = row.problem()
    x, params, dy = as_float64((problem.x, problem.params, problem.dy))
    y, hx, saved = reference.stack_forward(row.kind, x, params, lengths=problem.lengths)
    arrays = [y, *(hx if isinstance(hx, tuple) else (hx,))]
    if row.training:
        dx, _, grads = reference.stack_backward(dy, saved)
        arrays += [dx, *(array for layer in grads for direction in layer for array in direction)]
    return arrays


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [OURS, "numpy"])
def test_ours_compute_what_they_should(name: str, mode: str, structure: str) -> None:
    for cell in CELLS:
        row = replace(STRUCTURES[structure], cell=cell, mode=mode)
        ways = load(name, 1).ways(row)
        assert ways
        for way in ways:
            got = ways[way].arrays(ways[way].call())
            for label, array, want in zip(row.result_names(), got, truth(row), strict=True):
                assert_within_budget(array, want, "gradient", name=f"{row.name}, {way}, {label}")


def needs(*modules: str) -> Any:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_ours_compute_int8(structure: str) -> None:
    for cell in CELLS:
        row = replace(STRUCTURES[structure], cell=cell, dtype="int8")
        assert set(load(OWN_FLOAT32, 1).ways(row)) > set(load(OURS, 1).ways(row)) > set()
        for library in (OURS, OWN_FLOAT32):
            worker = workers.Worker(load(library, 1))
            assert worker.check(row, truth(row)).failures == {}
    assert load("numpy", 1).ways(replace(SMALL, dtype="int8")) == {}
    assert load(OWN_FLOAT32, 1).ways(SMALL) == {}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("mode", MODES)
def test_ours_compute_bfloat16(mode: str, structure: str) -> None:
    pytest.importorskip("ml_dtypes")
    for cell in CELLS:
        row = replace(STRUCTURES[structure], cell=cell, mode=mode, dtype="bfloat16")
        worker = workers.Worker(load(OURS, 1))
        assert worker.check(row, truth(row)).failures == {}
        assert "stack" in worker.calls


#: What computes on other dtypes, and of which cells.
BFLOAT16 = ("torch", "jax")
INT8 = {"torch": ("lstm", "gru"), "onnxruntime": ("lstm",)}


@needs_processes
@pytest.mark.parametrize(
    ("name", "modes"),
    [
        pytest.param("torch", MODES, marks=pytest.mark.torch),
        pytest.param("jax", MODES, marks=needs("jax")),
        pytest.param("keras", MODES, marks=needs("keras", "jax")),
        pytest.param("onnxruntime", MODES[:1], marks=needs("onnxruntime", "onnx")),
        pytest.param("openvino", MODES[:1], marks=needs("openvino", "onnx")),
    ],
)
def test_peers_compute_what_they_should(name: str, modes: Sequence[str]) -> None:
    """Each in a process, as in the benchmark: they do not all bear each other."""
    candidate = workers.Candidate(name, 1)
    try:
        for structure, cell, mode in itertools.product(STRUCTURES.values(), CELLS, MODES):
            row = replace(structure, cell=cell, mode=mode)
            checked = candidate.ask("check", row, truth(row))
            assert checked.failures == {}
            assert bool(checked.ways) == (mode in modes)
        for cell, mode in itertools.product(CELLS, MODES):
            row = Row("int8", "group", 6, 5, 32, 64, cell=cell, mode=mode, dtype="int8")
            checked = candidate.ask("check", row, truth(row))
            assert checked.failures == {}
            assert bool(checked.ways) == (mode == "inference" and cell in INT8.get(name, ()))
            row = replace(row, dtype="bfloat16")
            checked = candidate.ask("check", row, truth(row))
            assert checked.failures == {}
            assert bool(checked.ways) == (name in BFLOAT16)
        assert candidate.ask("check", replace(SMALL, dtype="float64"), None) == ([], {}, None)
    finally:
        candidate.close()


@needs("onnx")
def test_the_onnx_model() -> None:
    onnx: Any = importlib.import_module("onnx")
    onnxmodel: Any = importlib.import_module("rnnkernels.bench.libraries.onnxmodel")
    w_ih = np.repeat(np.arange(4.0), 2)[:, None]  # i, f, g, o are 0, 1, 2, 3; H is 2, I is 1
    (direction,) = [(w_ih, w_ih + 10, w_ih[:, 0] + 20, w_ih[:, 0] + 30)]
    weights = onnxmodel.weights([direction], onnxmodel.GATES["lstm"])
    assert weights["W"].tolist() == [[[0], [0], [3], [3], [1], [1], [2], [2]]]  # i, o, f, g
    assert weights["R"].tolist() == (weights["W"] + 10).tolist()
    assert weights["B"].tolist() == [[*(weights["W"][0, :, 0] + 20), *(weights["W"][0, :, 0] + 30)]]
    row = replace(replace(SMALL, layers=2, directions=2, ragged=True), cell="gru")
    model = onnx.load_from_string(onnxmodel.model(row, row.problem()))
    assert [node.op_type for node in model.graph.node] == ["GRU", "Transpose", "Reshape", "GRU"]
    assert [value.name for value in model.graph.input] == ["x", "lengths"]
    assert [value.name for value in model.graph.output] == ["y", "h_n_l0", "h_n_l1"]


# -- the workers -------------------------------------------------------------------------------------------


class Fake:
    """A library that is right, wrong or broken, by the names of its ways."""

    version = "1"

    def __init__(self, *names: str) -> None:
        self.names = names

    def ways(self, row: Row) -> dict[str, Way]:
        if "unable" in self.names:
            raise NotImplementedError("no such row\nand more")
        right = truth(row)
        wrong = [right[0] * 1.001, *right[1:]]

        def broken() -> None:
            raise OSError

        calls = {
            "right": lambda: right,
            "slow": lambda: time.sleep(1e-3) or right,
            "wrong": lambda: wrong,
            "short": lambda: right[1:],
            "broken": broken,
        }
        return {name: Way(calls[name], list) for name in self.names}


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TURN_SECONDS", 1e-3)
    monkeypatch.setattr(workers, "WARM_UP_SECONDS", 1e-3)


@pytest.mark.usefixtures("short_turns")
def test_only_what_is_right_is_timed() -> None:
    worker = workers.Worker(Fake("right", "slow", "wrong", "short", "broken"))
    checked = worker.check(SMALL, truth(SMALL))
    assert checked.ways == ["right", "slow"]
    assert checked.failures == {
        "wrong": "y differs by 0.001",
        "short": "2 arrays instead of 3",
        "broken": "OSError",
    }
    assert checked.results is None
    assert worker.choose() == "right"
    assert worker.turn() > 0
    unable = workers.Worker(Fake("unable")).check(SMALL, None)
    assert unable == ([], {"": "NotImplementedError: no such row"}, None)
    first = workers.Worker(Fake("right")).check(SMALL, None)
    assert first.results is not None
    assert len(first.results) == 3


def test_spinning_threads_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    workers.fall_asleep()
    monkeypatch.setattr(workers.time, "process_time", lambda: workers.time.monotonic())
    with pytest.raises(RuntimeError, match="still spin"):
        workers.fall_asleep(limit=0.05)


@needs_processes
def test_a_worker_that_fails_is_replaced() -> None:
    candidate = workers.Candidate("numpy", 1)
    try:
        assert candidate.version == np.__version__
        with pytest.raises(AttributeError):
            candidate.ask("no such method")
        assert candidate.ask("check", SMALL, None).ways == ["stack"]
    finally:
        candidate.close()


class Candidate:
    """Stands for a process: torch fails in its second turn, jax is not there, openvino differs."""

    def __init__(self, name: str, threads: int) -> None:
        if name == "jax":
            raise ModuleNotFoundError("No module named 'jax'")
        ways = {"torch": ("right",), "openvino": ("wrong",), "onnxruntime": ()}
        self.name, self.version, self.turns = name, "1", 0
        self.worker = workers.Worker(Fake(*ways.get(name, ("right",))))

    def ask(self, method: str, *arguments: Any) -> Any:
        self.turns += method == "turn"
        if self.name == "torch" and self.turns == 2:
            raise RuntimeError("out of luck")
        return getattr(self.worker, method)(*arguments)

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("short_turns")
def test_absent_and_failing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "Candidate", Candidate)
    monkeypatch.setenv("CXX", "no-such-compiler")
    lines: list[str] = []
    made = comparison.run([SMALL], PEERS, [1], 3, lambda _, line: lines.append(line))
    assert lines[0].startswith("lstm-small-inference, threads: 1: ")
    assert made.peers == [name for name in PEERS if name != "jax"]
    assert made.absent["jax"] == "ModuleNotFoundError: No module named 'jax'"
    assert "no-such-compiler" in made.absent["share of the floor"]
    (result,) = made.results
    assert set(result.seconds) == set(result.ways) == {OURS, OWN_FLOAT32, "keras", "numpy"}
    assert result.failures == {
        "torch": "RuntimeError: out of luck",
        "openvino wrong": "y differs by 0.001",
    }
    text = report.markdown(made)
    assert "Left out: jax (ModuleNotFoundError: No module named 'jax')." in text
    assert "lstm-small-inference, threads: 1: openvino wrong: y differs by 0.001" in text


# -- the floor ---------------------------------------------------------------------------------------------


def test_the_floor_counts_operations_and_bytes() -> None:
    inference = Row("", "", 100, 1, 8, 16)
    training = replace(inference, mode="training")
    products = 2 * 100 * 64 * (8 + 16)
    assert floor.floor_seconds(inference, 1e9, np.inf) == pytest.approx(products / 1e9)
    assert floor.floor_seconds(training, 1e9, np.inf) == pytest.approx(3 * products / 1e9)
    recurrent, first = 4 * 64 * 16, 4 * 64 * 8
    assert floor.floor_seconds(inference, np.inf, 1e9) == pytest.approx((100 * recurrent + first) / 1e9)
    assert floor.floor_seconds(training, np.inf, 1e9) == pytest.approx((200 * recurrent + first) / 1e9)
    for dtype, size in (("bfloat16", 2), ("int8", 1)):
        narrow = replace(inference, dtype=dtype)
        assert floor.floor_seconds(narrow, np.inf, 1e9) == pytest.approx(
            size / 4 * (100 * recurrent + first) / 1e9
        )
    two = replace(inference, layers=2, directions=2)
    more = 2 * 100 * 64 * (32 + 16)
    assert floor.floor_seconds(two, 1e9, np.inf) == pytest.approx(2 * (products + more) / 1e9)
    ragged = replace(inference, ragged=True, B=64)
    part = floor.floor_seconds(ragged, 1e9, np.inf) / floor.floor_seconds(
        replace(ragged, ragged=False), 1e9, np.inf
    )
    assert 0.3 < part < 0.7
    assert floor.working_set(inference) == recurrent
    assert floor.working_set(replace(inference, T=1)) == recurrent + first
    assert floor.cache_sizes().keys() == {"L1", "L2", "L3"}


# -- what is told ------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Report:
    times = {OURS: [1e-3, 1e-3, 2e-3], "torch": [2e-3, 4e-3, 4e-3], "jax": [3e-3, 1e-3, 9e-3]}
    conditions = {
        "date": "today",
        "cpu": "a CPU",
        "cpus": 2,
        "isa": "avx2",
        "rounds": 3,
        "versions": {"torch": "2"},
    }
    report = Report(conditions, ["torch", "jax"], {"keras": "ImportError"}, {1: {"flops": 1e11, "L1": 2e11}})
    ways = dict.fromkeys(times, "scan")
    report.results.append(Result(SMALL, 1, ways, times, [5e-4, 5e-4, 1e-3], {}))
    alone = {OURS: [2e-5], "jax": [1e-5]}
    report.results.append(Result(replace(SMALL, mode="training"), 2, ways, alone, None, {"torch": "OSError"}))
    return report


def test_ratios_are_formed_within_a_round(made: Report) -> None:
    result = made.results[0]
    assert result.share() == Quartiles(0.5, 0.5, 0.5)
    assert result.times_as_fast() == {"torch": Quartiles(2.0, 2.0, 3.0), "jax": Quartiles(2.0, 3.0, 3.75)}
    assert result.against_the_best() == Quartiles(1.5, 2.0, 2.0)
    assert result.best() == "jax"
    own = replace(result, seconds={**result.seconds, OWN_FLOAT32: [1e-5] * 3})
    assert (own.best(), own.against_the_best()) == (result.best(), result.against_the_best())
    assert OWN_FLOAT32 in own.times_as_fast()
    alone = replace(result, seconds={OURS: [1.0]}, floor=None)
    assert (alone.share(), alone.best(), alone.against_the_best()) == (None, None, None)


def test_the_table(made: Report) -> None:
    assert report.markdown(made).splitlines() == [
        "today, a CPU (2 CPUs, avx2), rounds: 3.",
        "torch 2.",
        "The machine, threads: 1: 100 GFLOP/s; GB/s from L1 200.",
        "Left out: keras (ImportError).",
        "",
        "| row | threads | ms | floor | torch | jax | best peer | times as fast |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        "| lstm-small-inference | 1 | 1.00 | 50% | 2.00 | 3.00 | jax | 2.00 (1.50-2.00) |",
        "| lstm-small-training | 2 | 0.0200 | - | - | 0.50 | jax | 0.50 (0.50-0.50) |",
        "",
        "lstm-small-training, threads: 2: torch: OSError",
        "rnnkernels is faster than every peer, by the lower quartile, in 1 of 2 rows; the lowest is 0.50 "
        "(lstm-small-training, threads: 2).",
    ]


def test_the_json(made: Report) -> None:
    content = json.loads(json.dumps(made.as_dict()))
    first, second = content["results"]
    assert (first["name"], first["T"], first["dtype"]) == ("lstm-small-inference", 5, "float32")
    assert first["times_as_fast_as_the_best"] == {"lower": 1.5, "median": 2.0, "upper": 2.0}
    assert first["seconds"] == made.results[0].seconds
    assert second["share_of_floor"] is None
    assert second["failures"] == {"torch": "OSError"}


def test_the_chart(made: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra plots")
    chart.draw(made, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@needs_processes
def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="the command line needs the extra cli")
    command = [
        sys.executable,
        "-m",
        "rnnkernels",
        "bench",
        "--peers",
        "numpy,openvino,numpy",
        "--threads",
        "1",
    ]
    command += ["--rows", "rnn-tiny-*", "--modes", "inference", "--rounds", "2"]
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown")}
    for name, file in files.items():
        command += [f"--{name}", str(file)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    content = json.loads(files["json"].read_text())
    (result,) = content["results"]
    present = set(LIBRARIES) & set(content["versions"])
    assert {OURS, "numpy"} <= present
    assert present | set(content["absent"]) >= {OURS, "numpy", "openvino"}
    assert set(result["seconds"]) == set(result["ways"]) == present
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result["seconds"].values())
    assert "rnn-tiny-inference" in run.stdout
    assert "| rnn-tiny-inference | 1 |" in files["markdown"].read_text()


# -- the guard ---------------------------------------------------------------------------------------------


def test_the_guard_finds_rows_that_became_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("guard", ROOT / "benchmarks" / "guard.py")
    assert spec
    assert spec.loader
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    assert grid.select(guard.ROWS, dtypes=grid.DTYPES)

    def file(name: str, **times: tuple[float, float, float]) -> Path:
        results = [
            {"name": row, "threads": 2, "times_as_fast": {"torch": Quartiles(*three)._asdict()}}
            for row, three in times.items()
        ]
        path = tmp_path / name
        path.write_text(
            json.dumps({"results": [*results, {"name": "alone", "threads": 2, "times_as_fast": {}}]})
        )
        return path

    record = file("record.json", steady=(1.0, 1.1, 1.2), gone=(1.0, 1.1, 1.2), noisy=(0.9, 2.0, 2.1))
    made = file("made.json", steady=(0.8, 0.9, 0.91), noisy=(0.7, 0.75, 0.82), new=(0.1, 0.1, 0.1))
    arguments = ["guard.py", "--record", str(record), "--made", str(made)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert guard.main() == 0
    made = file("made.json", steady=(0.7, 0.8, 0.89), noisy=(0.7, 0.75, 0.80))
    assert guard.main() == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "slower than recorded: steady, noisy"
    monkeypatch.setattr(guard, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="no results of it"):
        guard.record_of("it", "avx2")
