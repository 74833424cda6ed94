"""The character model: text in, streams, training that resumes with the same bits, files, sampling."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="the model files need the extra cli")

from rnnkernels import functional, reference
from rnnkernels.charlm import (
    CELLS,
    CharModel,
    Config,
    Corpus,
    InputError,
    Sampler,
    Streams,
    Trainer,
    Vocabulary,
    checkpoint,
    evaluate,
    read_files,
    standard_library,
)
from rnnkernels.testing import relative_error

TEXT = "".join(f"def f{i % 7}(x):\n    return x + {i % 10}\n\n" for i in range(400))
CORPUS = Corpus("a small text", TEXT[:8000], TEXT[8000:])
SMALL = Config(hidden=24, seq_len=16, batch=8, steps=30, lr=2e-2)


def trained(config: Config = SMALL) -> Trainer:
    trainer = Trainer(config, CORPUS)
    while not trainer.done:
        trainer.step()
    return trainer


# -- text --------------------------------------------------------------------------------------------------


def test_single_file_gives_up_its_last_tenth(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes("grüße, 世界!\r\n".encode() * 10)
    corpus = read_files([file])
    assert corpus.training + corpus.held_out == "grüße, 世界!\r\n" * 10  # to the character, \r included
    assert len(corpus.held_out) == 12


def test_several_files_hold_out_whole_ones_whatever_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for i in range(20):
        for folder in (tmp_path, tmp_path / "elsewhere"):
            (folder / f"{i}.txt").write_text(f"file {i}\n" * 50)
    corpus = read_files([tmp_path / f"{i}.txt" for i in range(20)])
    texts = {f"file {i}\n" * 50 for i in range(20)}
    held_out = {text for text in texts if text in corpus.held_out}
    assert len(held_out) == 2  # a tenth of them
    assert not any(text in corpus.training for text in held_out)
    assert all(text in corpus.training for text in texts - held_out)
    moved = read_files([tmp_path / "elsewhere" / f"{i}.txt" for i in range(20)])
    assert moved.fingerprint == corpus.fingerprint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "found nothing there"),
        (b"", "empty file"),
        (b"abc\0def" * 10, r"binary file \(NUL byte at offset 3\)"),
        (b"abc" * 20 + b"\xff", "byte 0xff at offset 60"),
        ("Grüße\n".encode("latin-1") * 20, "byte 0xfc at offset 2"),
        (b"too short", "at least 20 characters, got 9"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "bad.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.txt: expected .*{complaint}"):
        read_files([file])


def test_folder_and_doubled_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got a folder"):
        read_files([tmp_path])
    for name in "ab":
        (tmp_path / name).write_text("the same text in both of them")
    with pytest.raises(InputError, match="got the same one as"):
        read_files([tmp_path / "a", tmp_path / "b"])


def test_standard_library_is_the_same_every_time_and_holds_files_out() -> None:
    corpus = standard_library()
    assert corpus.fingerprint == standard_library().fingerprint
    assert len(corpus.training) > 4_000_000
    assert 200_000 < len(corpus.held_out) < 2_000_000
    # A stretch of a held-out file that is long enough to be its own does not occur in the training text.
    assert corpus.held_out[50_000:50_400] not in corpus.training


def test_vocabulary_encodes_any_unicode_and_knows_what_it_does_not_know() -> None:
    vocabulary = Vocabulary.of("añ世🙂a")
    assert vocabulary.characters == "añ世🙂"
    assert vocabulary.encode("🙂ab").tolist() == [4, 1, Vocabulary.unknown]
    assert vocabulary.character(4) == "🙂"
    assert "z" not in Vocabulary.of("a" * 3_000_000 + "zz").characters  # rarer than one in a million


def test_streams_meet_every_character_and_go_on_where_they_stopped() -> None:
    ids = np.arange(100, dtype=np.int32)
    streams = Streams(ids, batch=4, seq_len=5)
    inputs, targets = streams.chunk(0)
    assert inputs.shape == targets.shape == (5, 4)
    np.testing.assert_array_equal(inputs[0], [0, 25, 50, 75])
    np.testing.assert_array_equal(inputs[1:], targets[:-1])
    np.testing.assert_array_equal(streams.chunk(1)[0][0], targets[-1])
    seen = np.concatenate([streams.chunk(step)[0].ravel() for step in range(5)])
    np.testing.assert_array_equal(np.sort(seen), ids)  # one epoch
    np.testing.assert_array_equal(streams.chunk(15)[0][0], [75, 0, 25, 50])  # round the ring


# -- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_and_reference_agree_on_loss_and_gradients(cell: str, layers: int) -> None:
    def run(ops: object) -> tuple[float, np.ndarray]:
        rng = np.random.default_rng(1)
        model = CharModel(11, cell=cell, hidden=13, layers=layers, dtype=np.float64, rng=rng, ops=ops)
        ids = rng.integers(11, size=(8, 3)).astype(np.int32)
        dropout = 0.5 if layers > 1 else 0.0
        _, state = model.forward_and_backward(ids[:-1], ids[1:], dropout=dropout, key=5)
        loss, _ = model.forward_and_backward(ids[:-1], ids[1:], state, dropout=dropout, key=6)
        return loss, model.gradients

    got, want = run(functional), run(reference)
    assert math.isclose(got[0], want[0], rel_tol=1e-12)
    assert relative_error(got[1], want[1]) < 1e-12


def test_gradients_are_those_of_the_loss() -> None:
    rng = np.random.default_rng(2)
    model = CharModel(7, hidden=5, layers=2, dtype=np.float64, rng=rng)
    ids = rng.integers(7, size=(6, 2)).astype(np.int32)
    model.forward_and_backward(ids[:-1], ids[1:])
    gradients = model.gradients.copy()
    direction = rng.standard_normal(gradients.shape)
    origin, step = model.parameters.copy(), 1e-6
    losses = []
    for sign in (1, -1):
        model.parameters[...] = origin + sign * step * direction
        losses.append(model.forward_and_backward(ids[:-1], ids[1:])[0])
    assert math.isclose((losses[0] - losses[1]) / (2 * step), gradients @ direction, rel_tol=1e-6)


def test_parameters_have_pytorchs_names_and_shapes_and_live_in_one_vector() -> None:
    model = CharModel(11, cell="gru", hidden=6, layers=2, rng=np.random.default_rng(0))
    state = model.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        "embedding.weight": (11, 128),
        "weight_ih_l0": (18, 128), "weight_hh_l0": (18, 6), "weight_ih_l1": (18, 6), "weight_hh_l1": (18, 6),
        "head.weight": (11, 6),
        "bias_ih_l0": (18,), "bias_hh_l0": (18,), "bias_ih_l1": (18,), "bias_hh_l1": (18,),
        "head.bias": (11,),
    }  # fmt: skip
    assert sum(tensor.size for tensor in state.values()) == model.parameters.size
    assert model.stack()[0][0][0].T.flags.c_contiguous  # a row of the table is what an id gathers
    other = CharModel(11, cell="gru", hidden=6, layers=2)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.parameters, model.parameters)


def test_evaluation_predicts_every_character_once() -> None:
    model = CharModel(9, hidden=6, dtype=np.float64, rng=np.random.default_rng(3))
    ids = np.random.default_rng(4).integers(9, size=203).astype(np.int32)
    want, _ = model.loss(ids[:-1, None], ids[1:, None])
    got = evaluate(model, ids, batch=1, seq_len=7)
    assert math.isclose(got, want / 202 / math.log(2), rel_tol=1e-12)
    model.parameters[...] = 0.0
    assert math.isclose(evaluate(model, ids, batch=5, seq_len=7), math.log2(9), rel_tol=1e-12)


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
def test_training_learns(optimizer: str) -> None:
    lr = {"adam": 2e-2, "rmsprop": 1e-2, "adagrad": 1e-1, "sgd": 5.0}[optimizer]
    trainer = trained(replace(SMALL, optimizer=optimizer, lr=lr, steps=100))
    assert np.mean(trainer.losses[:3]) > 4.0
    assert np.mean(trainer.losses[-5:]) < 2.0
    held_out = evaluate(trainer.model, trainer.vocabulary.encode(CORPUS.held_out))
    assert held_out < 2.0


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns(cell: str) -> None:
    trainer = trained(replace(SMALL, cell=cell, lr=2e-2 if cell == "lstm" else 1e-2, steps=100))
    assert np.mean(trainer.losses[-5:]) < 2.0


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
def test_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    config = replace(SMALL, optimizer=optimizer, layers=2, dropout=0.2, weight_decay=0.01, lr=3e-3)
    whole = trained(config)
    part = Trainer(config, CORPUS)
    for _ in range(11):
        part.step()
    checkpoint.write(tmp_path / "run.safetensors", part)
    resumed = checkpoint.read(tmp_path / "run.safetensors").resume(CORPUS, {})
    while not resumed.done:
        resumed.step()
    assert resumed.losses == whole.losses
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)


def test_resuming_refuses_other_options_and_other_texts(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.write(path, trained(replace(SMALL, steps=2)))
    saved = checkpoint.read(path)
    with pytest.raises(InputError, match=r"--hidden: expected 24 as in .*run\.safetensors.*, got 25"):
        saved.resume(CORPUS, {"hidden": 25})
    with pytest.raises(InputError, match="expected the text it was trained on"):
        saved.resume(Corpus("another", TEXT[:7000], TEXT[7000:]), {})
    longer = saved.resume(CORPUS, {"steps": 4, "hidden": 24})
    assert not longer.done


def test_a_loss_that_is_not_finite_stops_and_leaves_the_parameters() -> None:
    trainer = Trainer(SMALL, CORPUS)
    trainer.model.parameters[-1] = np.nan  # of the head's bias
    before = trainer.model.parameters.copy()
    with pytest.raises(InputError, match="step 1: expected finite numbers"):
        trainer.step()
    np.testing.assert_array_equal(trainer.model.parameters, before)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden": 0}, "--hidden: expected a positive integer, got 0"),
        ({"lr": math.nan}, "--lr: expected a positive number, got nan"),
        ({"dropout": 1.0}, r"--dropout: expected a number in \[0, 1\), got 1.0"),
        ({"dropout": 0.1}, "--dropout: expected 0 with one layer"),
        ({"cell": "lstn"}, "--cell: expected one of lstm, gru"),
        ({"weight_decay": -1.0}, "--weight-decay: expected a number >= 0, got -1.0"),
    ],
)
def test_bad_configuration_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        replace(SMALL, **change)


# -- model files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.write(path, trained())
    return path


def test_file_gives_back_the_model_and_leaves_nothing_beside_it(saved: Path) -> None:
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]
    loaded = checkpoint.read(saved)
    assert loaded.config == SMALL
    np.testing.assert_array_equal(loaded.model().parameters, trained().model.parameters)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, 0.999])
def test_truncated_file_is_refused(saved: Path, tmp_path: Path, keep: float) -> None:
    data = saved.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"broken\.safetensors: expected a whole safetensors file"):
        checkpoint.read(broken)


def test_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    other = tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="got nothing"):
        checkpoint.read(other)
    with pytest.raises(InputError, match="got a folder"):
        checkpoint.read(tmp_path)
    other.write_text("not a model at all, but long enough to have a header")
    with pytest.raises(InputError, match="expected a whole safetensors file"):
        checkpoint.read(other)
    save_file({"w": np.zeros(3)}, other)
    with pytest.raises(InputError, match="of another kind"):
        checkpoint.read(other)
    save_file({"w": np.zeros(3)}, other, {"format": checkpoint.FORMAT, "format_version": "99"})
    with pytest.raises(InputError, match="expected format version 1, got 99"):
        checkpoint.read(other)
    save_file({"w": np.zeros(3)}, other, {"format": checkpoint.FORMAT, "format_version": "1"})
    with pytest.raises(InputError, match="metadata is damaged"):
        checkpoint.read(other)


def test_file_with_a_missing_or_misshapen_tensor_is_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    other = tmp_path / "other.safetensors"
    save_file({name: t for name, t in tensors.items() if name != "head.bias"}, other, metadata)
    with pytest.raises(InputError, match=r"other\.safetensors: head\.bias: expected .* got none"):
        checkpoint.read(other).model()
    save_file(tensors | {"head.bias": np.zeros(3, np.float32)}, other, metadata)
    with pytest.raises(InputError, match=r"head\.bias: expected float32 of .* got float32 of shape \(3,\)"):
        checkpoint.read(other).model()
    save_file({n: t for n, t in tensors.items() if not n.startswith("resume.")}, other, metadata)
    with pytest.raises(InputError, match=r"other\.safetensors: .*expected"):
        checkpoint.read(other).resume(CORPUS, {})


def test_a_failed_write_keeps_the_file_there_was(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write_bytes(saved, b"half a model")
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


# -- sampling ----------------------------------------------------------------------------------------------


def sample(trainer: Trainer, prompt: str, temperature: float, seed: int = 0, length: int = 60) -> str:
    rng = np.random.default_rng(seed)
    sampler = Sampler(trainer.model, trainer.vocabulary, temperature=temperature, rng=rng)
    return "".join(sampler.stream(prompt, length))


def test_sampling() -> None:
    trainer = trained(replace(SMALL, steps=120))
    greedy = sample(trainer, "def f1(x):\n", 0.0)
    assert greedy == sample(trainer, "def f1(x):\n", 0.0, seed=9)
    assert greedy.startswith("    return x + ")
    warm = sample(trainer, "def f1(x):\n", 1.0)
    assert warm == sample(trainer, "def f1(x):\n", 1.0)
    assert warm != sample(trainer, "def f1(x):\n", 1.0, seed=9)
    assert len(warm) == 60
    assert set(warm) <= set(TEXT)
    with pytest.raises(InputError, match=r"--prompt: expected .*got 'é' \(U\+00E9\)"):
        sample(trainer, "def é", 1.0)


def test_streaming_follows_the_whole_sequence() -> None:
    """The likeliest next character, step by step, is that of one forward over the text so far."""
    trainer = trained(replace(SMALL, layers=2))
    text = "def f3(x):\n"
    written = sample(trainer, text, 0.0, length=20)
    ids = trainer.vocabulary.encode(text + written)
    y, _, _ = reference.stack_forward(trainer.model.kind, ids[:, None], trainer.model.stack())
    weight, bias = trainer.model.head
    likeliest = (y[:, 0] @ weight.T + bias)[:, 1:].argmax(axis=1) + 1
    np.testing.assert_array_equal(likeliest[len(text) - 1 : -1], ids[len(text) :])
