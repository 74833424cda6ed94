"""A run in one safetensors file: parameters under PyTorch's names, and what resuming needs beside them.

A file is written beside its final place and renamed, so that no reader and no crash meets half of one.
Every way in which a file can be wrong ends in an `InputError` that names the file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..types import Array
from .corpus import Corpus, InputError, Vocabulary
from .model import CharModel
from .training import Config, Trainer

FORMAT, VERSION = "rnnkernels.charlm", 1

# Options that a resumed run may be given anew; all others decide what the saved numbers mean.
CHANGEABLE = ("steps", "lr", "clip", "weight_decay", "dropout")


@dataclass(frozen=True)
class Checkpoint:
    """What a file held, as far as it can be judged without the text.

    Attributes
    ----------
    corpus
        Name, files and fingerprint of the text it was trained on.
    tensors
        Parameters by name, and under "resume." the rest of the run.
    """

    path: Path
    config: Config
    vocabulary: Vocabulary
    corpus: dict[str, Any]
    tensors: dict[str, Array]

    def load(self, model: CharModel) -> CharModel:
        """Copy the parameters into `model` and return it.

        Raises
        ------
        InputError
            If a parameter is missing or has the wrong shape or dtype.
        """
        try:
            model.load_state_dict(self.tensors)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from None
        return model

    def model(self) -> CharModel:
        """The trained model."""
        config = self.config
        return self.load(
            CharModel(
                len(self.vocabulary),
                cell=config.cell,
                embedding=config.embedding,
                hidden=config.hidden,
                layers=config.layers,
                dtype=config.dtype,
            )
        )

    def resume(self, corpus: Corpus, options: Mapping[str, Any]) -> Trainer:
        """The run as it stood, to go on with.

        Parameters
        ----------
        corpus
            The text, which must be the one the run began with.
        options
            `Config` fields the user gave; those not in `CHANGEABLE` must be as they were.

        Raises
        ------
        InputError
            If an option or the text differs, or the file is not that of a run.
        """
        for name, value in options.items():
            was = getattr(self.config, name)
            if name not in CHANGEABLE and value != was:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option}: expected {was} as in {self.path}, which is resumed, got {value}")
        if corpus.fingerprint != self.corpus.get("fingerprint"):
            raise InputError(
                f"{self.path}: expected the text it was trained on ({self.corpus.get('name')}), "
                f"got {corpus.name}, which is not the same"
            )
        trainer = Trainer(replace(self.config, **options), corpus, self.vocabulary)
        self.load(trainer.model)
        run = {
            name.removeprefix("resume."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith("resume.")
        }
        try:
            trainer.load_state_dict(run)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from None
        return trainer


def write(path: Path, trainer: Trainer) -> None:
    """Save a run; `path` holds either what it held before or the whole of the new file."""
    tensors = trainer.model.state_dict()
    tensors |= {f"resume.{name}": tensor for name, tensor in trainer.state_dict().items()}
    corpus = trainer.corpus
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "config": json.dumps(asdict(trainer.config)),
        "vocabulary": json.dumps(trainer.vocabulary.characters),
        "corpus": json.dumps({"name": corpus.name, "files": corpus.files, "fingerprint": corpus.fingerprint}),
    }
    write_bytes(path, save(tensors, metadata))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read(path: Path) -> Checkpoint:
    """Read a saved run.

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, of a later format or damaged; names it and says which.
    """
    metadata, tensors = _read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected a model saved by rnnkernels train, got a safetensors file of another kind"
        )
    if metadata.get("format_version") != str(VERSION):
        raise InputError(
            f"{path}: expected format version {VERSION}, got {metadata.get('format_version')}; "
            "it was saved by another version of rnnkernels"
        )
    try:
        config = Config(**json.loads(metadata["config"]))
        vocabulary = Vocabulary(json.loads(metadata["vocabulary"]))
        corpus = dict(json.loads(metadata["corpus"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata is damaged: {error}") from None
    return Checkpoint(path, config, vocabulary, corpus, tensors)


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    if not path.is_file():
        raise InputError(f"{path}: expected a model file, got {'a folder' if path.is_dir() else 'nothing'}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                return metadata, {}
            return metadata, {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, got one that is not: {error}") from None
