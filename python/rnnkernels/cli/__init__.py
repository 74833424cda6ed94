"""The command `rnnkernels`: this file parses and reports errors, one module a verb does the work.

Only the module of the verb in use is imported, so that `info` and `check` need numpy alone, and a missing
extra is met with the command that installs it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

VERBS = {
    "info": "what is installed here: version, instruction sets, threads, integrations",
    "check": "compare every kernel with its reference on this machine",
    "train": "train a character language model on text files, or on Python's own library",
    "sample": "write text with a trained model",
    "bench": "time kernels against their references, or against other libraries",
}
BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        The exit code: 0 well, 1 a failed check, 2 bad input, 130 Ctrl-C (after saving, if there was something
        to save), 141 the reader of the output has gone.
    """
    from ..charlm import InputError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    verb = next(iter(arguments), "")
    try:
        options = _parse(verb, arguments)
        _configure(options)
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("rich", "safetensors"):
            raise
        print(
            f"rnnkernels {verb}: needs {error.name}, which is not installed: pip install 'rnnkernels[cli]'",
            file=sys.stderr,
        )
        return BAD_INPUT
    except InputError as error:
        print(f"rnnkernels {verb}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"rnnkernels {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python complains once more at exit
        return BROKEN_PIPE
    return code


def _configure(options: argparse.Namespace) -> None:
    """Apply --threads, and find out now what the environment asks for and cannot have."""
    from .. import info, set_num_threads
    from ..charlm import InputError

    try:
        if getattr(options, "threads", None) is not None:
            set_num_threads(options.threads)
        info()
    except ValueError as error:
        raise InputError(str(error)) from None


def _parse(verb: str, arguments: Sequence[str]) -> argparse.Namespace:
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="rnnkernels",
        description="Fused LSTM, GRU and RNN kernels: look at them, check them, train with them.",
    )
    parser.add_argument("--version", action="version", version=f"rnnkernels {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        described = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == verb:
            module = importlib.import_module(f".{name}", __name__)
            module.add_arguments(described)
            described.set_defaults(run=module.run)
    return parser.parse_args(arguments)
