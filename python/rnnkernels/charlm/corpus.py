"""Text in, ids out: which files are learnt and which are held out, the vocabulary, the parallel streams.

What is held out are whole files, chosen by hash, so that the figure reported at the end is about text that
the model has seen no part of; only a single file gives up its last tenth instead.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

# Characters of the standard library that are learnt, which every Python from 3.10 on has; and of one piece.
LIBRARY_TRAINING, PIECE = 7_000_000, 4_000

# Tests, generated tables, what differs from one build of Python to the next, and what later ones do not have.
SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "encodings", "pydoc_data",
    "turtledemo", "__pycache__", "__phello__", "distutils", "lib2to3",
}  # fmt: skip
SKIPPED_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize", "config-")


class InputError(ValueError):
    """Something the user gave (a file, a model, an option) cannot be used; the message says what and why."""


@dataclass(frozen=True)
class Corpus:
    """A text to learn and a text to be judged on.

    Attributes
    ----------
    name
        What to call it in a message.
    training, held_out
        The two texts; no file has a part in both, unless there was only one.
    files
        Absolute paths it was made of; empty for the standard library.
    """

    name: str
    training: str
    held_out: str
    files: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A digest of both texts: a resumed run must see what the first part of it saw."""
        digest = hashlib.sha256(self.training.encode())
        digest.update(b"\0" + self.held_out.encode())
        return digest.hexdigest()


def read_files(paths: Sequence[str | Path]) -> Corpus:
    """Read text files; hold out files that make up a tenth of the text, or a single file's last tenth.

    Raises
    ------
    InputError
        If a file is missing, empty, binary, not UTF-8, too short, or the same text as another; names it.
    """
    texts = {Path(path): _read_text(Path(path)) for path in paths}
    files = tuple(str(path.resolve()) for path in texts)
    if len(texts) == 1:
        ((path, text),) = texts.items()
        cut = len(text) - len(text) // 10
        corpus = Corpus(str(path), text[:cut], text[cut:], files)
        if len(corpus.held_out) < 2:
            raise InputError(f"{path}: expected at least 20 characters, got {len(text)}")
        return corpus
    by_text: dict[str, Path] = {}
    for path, text in texts.items():
        if text in by_text:
            raise InputError(f"{path}: expected a text of its own, got the same one as {by_text[text]}")
        by_text[text] = path
    in_order = sorted(by_text, key=lambda text: hashlib.sha256(text.encode()).digest())
    wanted = sum(map(len, in_order)) // 10
    held_out = [in_order[0]]
    while sum(map(len, held_out)) < wanted and len(held_out) < len(in_order) - 1:
        held_out.append(in_order[len(held_out)])
    training = [text for text in texts.values() if text not in set(held_out)]
    if len("".join(held_out)) < 2:
        raise InputError(f"{by_text[held_out[0]]}: expected at least 2 characters to hold out, got 1")
    return Corpus(f"{len(texts)} files", "".join(training), "".join(held_out), files)


def standard_library() -> Corpus:
    """The source code of the running Python's standard library: one file in eight is held out.

    What is learnt comes in pieces, cut at line ends and ordered by hash: a stream that followed whole files
    would spend hundreds of steps in one of them, and the loss is 0.1 bits lower this way.  What is installed
    beside the library changes nothing.

    Raises
    ------
    InputError
        If this Python keeps its library elsewhere than in .py files, or has too little of it.
    """
    root = Path(sysconfig.get_path("stdlib"))
    pieces: dict[str, str] = {}
    files_held_out = []
    for name in sorted(_library_files(root)):
        text = _read_text(root / name)
        if _hash(name)[-1] % 8 == 0:
            files_held_out.append(text)
        else:
            pieces |= {f"{name} {i}": piece for i, piece in enumerate(_pieces(text))}
    training = "".join(pieces[name] for name in sorted(pieces, key=_hash))
    held_out = "".join(files_held_out)
    if len(training) < LIBRARY_TRAINING // 4:
        raise InputError(
            f"{root}: expected the source code of the standard library, got {len(training)} characters of "
            ".py files; name the text files to learn instead"
        )
    return Corpus("the Python standard library", training[:LIBRARY_TRAINING], held_out)


def _library_files(root: Path) -> Iterator[str]:
    """Names below `root`; what is skipped is not even walked, for site-packages can be large."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _is_skipped(name)]
        for name in files:
            path = Path(folder, name)
            if path.suffix == ".py" and not _is_skipped(name) and path.stat().st_size > 0:
                yield path.relative_to(root).as_posix()


def _is_skipped(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith(SKIPPED_PREFIXES)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = text.find("\n", start + PIECE) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: expected a text file, found nothing there") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a text file, got a folder") from None
    except OSError as error:
        raise InputError(f"{path}: expected a text file that can be read, got: {error.strerror}") from None
    if not data:
        raise InputError(f"{path}: expected UTF-8 text, got an empty file")
    if b"\0" in data:
        raise InputError(
            f"{path}: expected UTF-8 text, got a binary file (NUL byte at offset {data.index(0)})"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None


class Vocabulary:
    """The characters a model knows; id 0 stands for every other one, and costs bits like any other.

    Parameters
    ----------
    characters
        Ids 1, 2, ... in this order; each once.
    """

    unknown = 0

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("characters: expected each character once")
        self.characters = characters
        self._table = np.zeros(0x110000, dtype=np.int32)
        self._table[_codepoints(characters)] = np.arange(1, len(characters) + 1)

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The characters of `text`, in code point order, without those rarer than one in a million."""
        codepoints, counts = np.unique(_codepoints(text), return_counts=True)
        return cls("".join(map(chr, codepoints[counts >= len(text) / 1e6])))

    def __len__(self) -> int:
        return len(self.characters) + 1

    def encode(self, text: str) -> Ids:
        """Ids of the characters of `text`: (N), int32."""
        return self._table[_codepoints(text)]

    def character(self, token: int) -> str:
        """The character of an id; the replacement character for the unknown one."""
        return self.characters[token - 1] if token else "\N{REPLACEMENT CHARACTER}"


def _codepoints(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


class Streams:
    """B readers at equal distances on a closed ring of text, each moving on by T characters a step.

    Where the recurrent state stood after a step is where the next step goes on: nothing has to be reset,
    and the chunk of any step can be computed without the ones before it, which is what resuming needs.

    Parameters
    ----------
    ids
        (N), the text.
    batch, seq_len
        B and T.
    """

    def __init__(self, ids: Ids, batch: int, seq_len: int) -> None:
        self.ids, self.seq_len = ids, seq_len
        self._starts = np.arange(batch, dtype=np.int64) * len(ids) // batch

    def chunk(self, step: int) -> tuple[Ids, Ids]:
        """Inputs (T, B) and targets (T, B), which are the inputs one character later."""
        offsets = np.arange(self.seq_len + 1)[:, None] + step * self.seq_len
        window = self.ids[(self._starts + offsets) % len(self.ids)]  # (T + 1, B)
        return window[:-1], window[1:]
