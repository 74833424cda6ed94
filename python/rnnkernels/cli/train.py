"""`rnnkernels train`: from text files to a model file, with something to look at meanwhile.

The run itself is `rnnkernels.charlm.Trainer`; here are its options, when to sample and save, the last
line, and what Ctrl-C does: the step in hand is finished, the run saved, the exit code 130; a second one ends
at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from .. import info
from ..charlm import (
    CELLS,
    Config,
    Corpus,
    InputError,
    Sampler,
    Trainer,
    checkpoint,
    evaluate,
    read_files,
    standard_library,
)
from ..charlm.training import LEARNING_RATES, OPTIMIZERS
from .arguments import count, positive_int, temperature
from .curve import draw_curve
from .display import Display, display

OUT = Path("charlm.safetensors")
SAMPLE_LENGTH = 240
HELP = {
    "cell": "recurrent cell",
    "embedding": "numbers that stand for a character",
    "hidden": "units a layer",
    "layers": "layers",
    "seq_len": "characters of each stream a step",
    "batch": "parallel streams",
    "steps": "updates of the weights",
    "lr": "learning rate at its highest",
    "optimizer": "optimiser, each with a learning rate of its own by default",
    "clip": "largest norm of the gradients",
    "weight_decay": "decoupled weight decay of matrices",
    "dropout": "dropout between layers",
    "seed": "seed of the weights, the dropout and the samples",
    "dtype": "arithmetic",
}
CHOICES = {"cell": (*CELLS, "rnn"), "optimizer": tuple(OPTIMIZERS), "dtype": ("float32", "float64")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels train`; those of `Config`, which judges them, are absent unless given."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="UTF-8 text files (default: the standard library of this Python)")  # fmt: skip
    for name, default in asdict(Config()).items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(default),
            choices=CHOICES.get(name),
            default=argparse.SUPPRESS,
            help=f"{HELP[name]} (default: {default})",
        )
    parser.add_argument("--out", type=Path, help=f"where the model goes (default: {OUT}, or the one resumed)")
    parser.add_argument("--resume", type=Path, metavar="MODEL", help="go on with a saved run")
    parser.add_argument("--sample-every", type=count, metavar="STEPS",
                        help="show a sample and save this often; 0: never (default: four times)")  # fmt: skip
    parser.add_argument(
        "--temperature", type=temperature, default=0.7, help="of samples (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive_int, help="threads of the kernels (default: all)")


def run(options: argparse.Namespace) -> int:
    """Train, save, evaluate; the last line is the held-out loss."""
    path = options.out or options.resume or OUT
    _expect_writable(path)
    trainer = _trainer(options)
    with _interruption() as interrupted, display(trainer) as shown:
        shown.say(_header(trainer))
        _train(trainer, options, path, interrupted, shown)
        checkpoint.write(path, trainer)
        shown.say(f"saved {path}")
        curve = path.with_suffix(".png")
        if draw_curve(curve, trainer.losses, str(path)):
            shown.say(f"saved {curve}")
    if not trainer.done:
        print(f"interrupted after step {len(trainer.losses)} of {trainer.config.steps}; "
              f"to go on: rnnkernels train --resume {path}")  # fmt: skip
        return 130
    bits = evaluate(trainer.model, trainer.vocabulary.encode(trainer.corpus.held_out))
    print(f"held-out bits per character: {bits:.2f}")
    return 0


def _train(
    trainer: Trainer, options: argparse.Namespace, path: Path, interrupted: threading.Event, shown: Display
) -> None:
    every = options.sample_every
    if every is None:
        every = max(1, trainer.config.steps // 4)
    while not trainer.done and not interrupted.is_set():
        trainer.step()
        shown.progress(trainer)
        step = len(trainer.losses)
        if every and step % every == 0 and not trainer.done:
            shown.sample(step, _sample(trainer, options.temperature))
            checkpoint.write(path, trainer)


def _sample(trainer: Trainer, temperature: float) -> str:
    rng = np.random.default_rng((trainer.config.seed, len(trainer.losses)))
    sampler = Sampler(trainer.model, trainer.vocabulary, temperature=temperature, rng=rng)
    return "".join(sampler.stream("", SAMPLE_LENGTH))


def _trainer(options: argparse.Namespace) -> Trainer:
    given = {field.name: vars(options)[field.name] for field in fields(Config) if field.name in options}
    if given.get("cell") == "rnn":
        given["cell"] = "rnn-tanh"
    if options.resume is None:
        if "optimizer" in given:
            given.setdefault("lr", LEARNING_RATES[given["optimizer"]])
        return Trainer(Config(**given), _corpus(options.files))
    saved = checkpoint.read(options.resume)
    files = options.files or [Path(name) for name in saved.corpus["files"]]
    return saved.resume(_corpus(files), given)


def _corpus(files: list[Path]) -> Corpus:
    return read_files(files) if files else standard_library()


def _expect_writable(path: Path) -> None:
    """Find out before training, not after it."""
    folder = path.parent
    if path.is_dir() or path.suffix == ".png":
        raise InputError(f"--out: expected a file name that does not end in .png, got {path}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--out: expected a name in a folder that can be written to, got {path}")


def _header(trainer: Trainer) -> str:
    config, corpus, facts = trainer.config, trainer.corpus, info()
    return (
        f"learning {corpus.name}: {len(corpus.training):,} characters, {len(corpus.held_out):,} held out, "
        f"{len(trainer.vocabulary)} in the vocabulary\n"
        f"{config.cell}, {config.layers} x {config.hidden} units, "
        f"{trainer.model.parameters.size:,} parameters, {config.dtype}, "
        f"{facts['isa']}, {facts['num_threads']} threads"
    )


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one raises KeyboardInterrupt as usual."""
    event = threading.Event()

    def note(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        event.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
