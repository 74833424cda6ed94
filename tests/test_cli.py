"""The command line as a user meets it: what it prints, its exit codes, Ctrl-C, bad files and options."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the command line needs the extra cli")
pytest.importorskip("safetensors", reason="the command line needs the extra cli")

import rnnkernels
from kernelcases import BFLOAT16_ISAS
from rnnkernels import functional
from rnnkernels.charlm import checkpoint
from rnnkernels.cli import main

TEXT = "".join(f"def f{i % 7}(x):\n    return x + {i % 10}\n\n" for i in range(400))
SMALL = ("--hidden", "24", "--seq-len", "16", "--batch", "8", "--lr", "2e-2")
LAST_LINE = re.compile(r"held-out bits per character: \d+\.\d\d")


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def train(*arguments: str) -> int:
    return main(["train", *SMALL, *arguments])


# -- train and sample --------------------------------------------------------------------------------------


def test_train_then_sample(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(str(text), "--steps", "250", "--sample-every", "125") == 0
    lines = capsys.readouterr().out.splitlines()
    assert LAST_LINE.fullmatch(lines[-1])
    assert float(lines[-1].split()[-1]) < 1.2
    assert lines[0].startswith(f"learning {text}: ")
    assert lines.count("--- sample after step 125") == 1
    assert any(
        re.match(r"step 250/250  \d\.\d{3} bits/char  [\d,]+ chars/s  0:00:00 left", line) for line in lines
    )
    assert "saved charlm.safetensors" in lines

    def sample(*arguments: str) -> str:
        assert main(["sample", "charlm.safetensors", "--prompt", "def f2", "--length", "40", *arguments]) == 0
        return capsys.readouterr().out

    greedy = sample("--temperature", "0")
    assert greedy.startswith("def f2(x):\n    return x + ")
    assert len(greedy) == len("def f2") + 40 + 1
    assert greedy == sample("--temperature", "0", "--seed", "5")
    assert sample("--seed", "1") == sample("--seed", "1")
    assert sample("--temperature", "3", "--seed", "1") != sample("--temperature", "3", "--seed", "2")


def test_loss_curve_where_matplotlib_is(text: Path) -> None:
    pytest.importorskip("matplotlib", reason="loss curves need the extra plots")
    assert train(str(text), "--steps", "3", "--out", "model.st") == 0
    assert Path("model.png").read_bytes().startswith(b"\x89PNG")


def test_no_loss_curve_without_matplotlib(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train(str(text), "--steps", "3") == 0
    assert sorted(path.name for path in Path().iterdir()) == ["charlm.safetensors", "text.txt"]


def test_resume_ends_with_the_same_bits(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (str(text), "--layers", "2", "--dropout", "0.3", "--cell", "gru")
    assert train(*options, "--steps", "20", "--out", "whole", "--sample-every", "0") == 0
    whole = checkpoint.read(Path("whole"))

    class Stop(Exception):
        pass

    steps = iter(range(12))

    def stopping(*args: object, **kwargs: object) -> object:
        if next(steps, None) is None:
            raise Stop
        return stack_forward(*args, **kwargs)

    stack_forward = functional.stack_forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "stack_forward", stopping)
        with pytest.raises(Stop):
            train(*options, "--steps", "20", "--out", "part", "--sample-every", "5")
    assert train("--resume", "part") == 0  # from step 10, the last one saved; text and out are known
    part = checkpoint.read(Path("part"))
    assert part.tensors.keys() == whole.tensors.keys()
    assert all(part.tensors[name].tobytes() == tensor.tobytes() for name, tensor in whole.tensors.items())
    capsys.readouterr()
    assert train("--resume", "part", "--cell", "lstm") == 2
    assert "--cell: expected gru as in part, which is resumed, got lstm" in capsys.readouterr().err


def test_ctrl_c_saves_and_the_run_goes_on(text: Path) -> None:
    command = [sys.executable, "-m", "rnnkernels", "train", *SMALL, str(text), "--steps", "200000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("learning")
        assert process.stdout.readline().startswith("lstm, 1 x 24 units")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""
    assert "saved charlm.safetensors" in out
    last = out.splitlines()[-1]
    taken = re.fullmatch(
        r"interrupted after step (\d+) of 200000; to go on: rnnkernels train --resume \S+", last
    )
    assert taken is not None
    steps = int(taken[1])
    assert steps >= 1
    assert main(["sample", "charlm.safetensors", "--length", "5"]) == 0
    assert train("--resume", "charlm.safetensors", "--steps", str(steps + 3)) == 0
    assert [path.name for path in Path().glob(".charlm*")] == []  # no temporary file


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux says that the other side of a terminal has closed
        return b""


def test_live_display_on_a_terminal(text: Path) -> None:
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "rnnkernels", "train", *SMALL, str(text), "--steps", "40"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b"".join(iter(partial(_read, control), b""))
        os.close(control)
        assert process.wait(timeout=30) == 0
    words = shown.decode()
    assert "step 40/40" in words
    assert "sample after step 10" in words
    assert re.search(rf"\x1b\[\?25h{LAST_LINE.pattern}\s*\Z", words)  # after the cursor is shown again


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.txt"], "missing.txt: expected a text file, found nothing there"),
        (["empty.txt"], "empty.txt: expected UTF-8 text, got an empty file"),
        (["binary.txt"], "binary.txt: expected UTF-8 text, got a binary file"),
        (["latin.txt"], "latin.txt: expected UTF-8 text, got byte 0xfc"),
        (["."], ".: expected a text file, got a folder"),
        (["text.txt", "--hidden", "0"], "--hidden: expected a positive integer, got 0"),
        (["text.txt", "--lr", "-1"], "--lr: expected a positive number, got -1.0"),
        (["text.txt", "--dropout", "0.5"], "--dropout: expected 0 with one layer"),
        (["text.txt", "--batch", "100000"], "text.txt: expected more characters than the 100000 streams"),
        (["text.txt", "--threads", "5000"], "num_threads: expected an integer in [1, 1024], got 5000"),
        (["text.txt", "--out", "no/such/model"], "--out: expected a name in a folder that can be written to"),
        (["text.txt", "--out", "model.png"], "--out: expected a file name that does not end in .png"),
        (["--resume", "missing.st"], "missing.st: expected a model file, got nothing"),
        (["--resume", "text.txt"], "text.txt: expected a whole safetensors file"),
    ],
)
def test_bad_input_ends_in_one_line(
    text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(b"\x7fELF\0\0\0\0" * 9)
    Path("latin.txt").write_bytes("für jeden Text\n".encode("latin-1") * 9)
    try:
        code = main(["train", *arguments])
    except SystemExit as error:  # argparse's own
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not Path("charlm.safetensors").exists()


def test_bad_model_or_prompt_ends_in_one_line(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(str(text), "--steps", "1") == 0
    whole = Path("charlm.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-10])
    capsys.readouterr()
    for arguments, complaint in (
        (["cut.safetensors"], "cut.safetensors: expected a whole safetensors file"),
        (
            ["charlm.safetensors", "--prompt", "naïve"],
            "--prompt: expected characters the model was trained on",
        ),
    ):
        assert main(["sample", *arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"rnnkernels sample: {complaint}")
        assert output.err.count("\n") == 1


def test_reader_of_the_output_may_leave(text: Path) -> None:
    assert train(str(text), "--steps", "1") == 0
    command = [sys.executable, "-m", "rnnkernels", "sample", "charlm.safetensors", "--length", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 141


# -- the other verbs ---------------------------------------------------------------------------------------


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, wanted in (
        (["--version"], f"rnnkernels {rnnkernels.__version__}"),
        (["--help"], "compare every kernel with its reference"),
        (["train", "--help"], "--weight-decay"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert wanted in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["trian"])


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^rnnkernels +{re.escape(rnnkernels.__version__)}$", out, re.M)
    facts = rnnkernels.info()
    assert re.search(rf"^isa +{facts['isa']}$", out, re.M)
    assert re.search(rf"^num_threads +{facts['num_threads']}$", out, re.M)
    assert "integration  torch (PyTorch): " in out


def test_info_imports_no_integration() -> None:
    code = (
        "import sys; from rnnkernels.cli import main; main(['info']); "
        "assert not {'torch', 'jax', 'onnx', 'keras', 'matplotlib', 'rich', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['rich'] = None; from rnnkernels.cli import main; sys.exit(main(['train']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "pip install 'rnnkernels[cli]'" in run.stderr
    assert "Traceback" not in run.stderr


def of_all_dtypes() -> str:
    """The best instruction set that has kernels of every dtype."""
    return next(isa for isa in rnnkernels.info()["isas"] if isa not in BFLOAT16_ISAS)


def test_check_passes_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    isa = of_all_dtypes()
    assert main(["check", "--isa", isa]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(lines)
    assert f"lstm_backward_f32_{isa}" in names
    assert all(" ok " in line for line in lines)
    counted = re.match(rf"(\d+) cases of {len(lines)} kernels, 0 failed; worst 0\.\d+ of budget: ", last)
    assert counted is not None
    assert int(counted[1]) == sum(int(line.split()[1]) for line in lines)


def test_check_fails_on_a_wrong_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gru_backward = functional.gru_backward

    def wrong(*args: object, **kwargs: object) -> object:
        grads = gru_backward(*args, **kwargs)
        return grads._replace(
            db_hh=None if grads.db_hh is None else grads.db_hh * grads.db_hh.dtype.type(1.125)
        )

    monkeypatch.setattr(functional, "gru_backward", wrong)
    monkeypatch.setattr("rnnkernels.cli.check.SIZES", ((5, 3, 7, 5), (3, 19, 9, 33)))
    isa = of_all_dtypes()
    assert main(["check", "--isa", isa, "--only", "gru"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert [line.split()[0] for line in failed] == [
        f"{kind}_backward_{dtype}_{isa}"
        for dtype in ("f32", "f64", "bf16", "f16")
        for kind in ("gru", "gru_reset_before")
    ]
    assert all("db_hh at T=" in line for line in failed)


def test_check_fails_on_a_kernel_that_no_case_covers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = rnnkernels.info()
    facts["kernels"] = [*facts["kernels"], f"new_forward_f32_{facts['isa']}"]
    monkeypatch.setattr("rnnkernels.cli.check.info", lambda: facts)
    monkeypatch.setattr("rnnkernels.cli.check.SIZES", ((1, 1, 1, 1),))
    assert main(["check", "--isa", facts["isa"]]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert [line.split()[0] for line in failed] == [f"new_forward_f32_{facts['isa']}"]


def test_unknown_instruction_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--isa", "mmx"]) == 2
    assert "--isa: expected one of " in capsys.readouterr().err
    command, environment = (
        [sys.executable, "-m", "rnnkernels", "info"],
        os.environ | {"RNNKERNELS_ISA": "mmx"},
    )
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("rnnkernels info: RNNKERNELS_ISA: expected one available here")


def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["bench", "--cell", "gru", "--shape", "3,2,5,7", "--rounds", "2"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["isa"] == rnnkernels.info()["isa"]
    assert [row["mode"] for row in report["results"]] == ["inference", "training"]
    for row in report["results"]:
        assert row["shape"] == [3, 2, 5, 7]
        assert 0.0 <= row["share_of_budget"] <= 1.0
        assert row["ratio"]["lower"] <= row["ratio"]["median"] <= row["ratio"]["upper"]
        assert row["kernel"]["median"] > 0.0
    assert main(arguments) == 0
    assert "3,2,5,7" in capsys.readouterr().out
    assert main([*arguments, "--json", "out.json", "--threads", "1"]) == 0
    assert "3,2,5,7" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text())["machine"]["num_threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shape", "3,2,5"], "--shape: invalid"),
        (["--threads", "1,2"], "--threads: expected one number, got 2"),
        (["--threads", "5000"], "num_threads: expected an integer in [1, 1024], got 5000"),
        (["--rows", "lstm-*"], "--rows: expected with --peers"),
        (["--peers", "numpy", "--cell", "gru"], "--cell: expected no --peers"),
        (["--peers", "theano"], "expected names among torch, "),
        (["--peers", "numpy", "--rows", "lstm"], "--rows: expected names like lstm-"),
        (["--peers", "numpy", "--rows", "lstm-*", "--cells", "gru"], "expected rows in common, got none"),
        (["--peers", "numpy", "--threads", "5000"], "--threads: expected at most"),
        (["--peers", "numpy", "--chart", "no/such.png"], "no/such.png: expected a name in a folder"),
    ],
)
def test_bench_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    try:
        code = main(["bench", *arguments])
    except SystemExit as error:  # argparse's own
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
