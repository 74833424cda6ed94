"""`rnnkernels sample`: text from a trained model, written as it comes."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np

from ..charlm import Sampler, checkpoint
from .arguments import count, temperature


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels sample`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a file saved by rnnkernels train")
    parser.add_argument("--prompt", default="", help="text to go on from, written first")
    parser.add_argument(
        "--length", type=count, default=500, help="characters to write (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=temperature, default=0.7,
                        help="0 takes the likeliest character each time (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=count, default=0, help="of the choices (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the prompt and what follows it to standard output."""
    saved = checkpoint.read(options.model)
    sampler = Sampler(
        saved.model(),
        saved.vocabulary,
        temperature=options.temperature,
        rng=np.random.default_rng(options.seed),
    )
    text = sampler.stream(options.prompt, options.length)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 gets escapes
    sys.stdout.write(options.prompt)
    for character in text:
        sys.stdout.write(character)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
