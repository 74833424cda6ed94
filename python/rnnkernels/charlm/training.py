"""Stateful truncated back-propagation through time, one step at a time.

`Trainer` holds everything a run consists of; a run that is saved after any step and goes on later ends with
the same bits, since the chunk, the learning rate and the dropout mask are functions of the step's number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np

from .. import functional, optim
from ..types import Array, State
from .corpus import Corpus, Ids, InputError, Streams, Vocabulary
from .model import CELLS, CharModel

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": partial(optim.Adam, betas=(0.9, 0.99)),
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "sgd": partial(optim.SGD, momentum=0.9),
}
LEARNING_RATES = {"adam": 5e-3, "rmsprop": 2e-3, "adagrad": 2e-2, "sgd": 1.0}  # what to begin a search with


@dataclass(frozen=True)
class Config:
    """What decides a run, and so is kept with the model.  The defaults are those of `rnnkernels train`."""

    cell: str = "lstm"
    embedding: int = 128
    hidden: int = 192
    layers: int = 1
    seq_len: int = 24
    batch: int = 48
    steps: int = 5000
    lr: float = LEARNING_RATES["adam"]
    optimizer: str = "adam"
    clip: float = 1.0
    weight_decay: float = 0.0
    dropout: float = 0.0
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("embedding", "hidden", "layers", "seq_len", "batch", "steps"):
            self._expect(name, "a positive integer", getattr(self, name) >= 1)
        for name in ("lr", "clip"):
            self._expect(name, "a positive number", 0.0 < getattr(self, name) < math.inf)
        self._expect("weight_decay", "a number >= 0", 0.0 <= self.weight_decay < math.inf)
        self._expect("dropout", "a number in [0, 1)", 0.0 <= self.dropout < 1.0)
        self._expect(
            "dropout", "0 with one layer, since it acts between layers", self.layers > 1 or not self.dropout
        )
        self._expect("seed", "an integer >= 0", self.seed >= 0)
        self._expect("cell", f"one of {', '.join(CELLS)}", self.cell in CELLS)
        self._expect("optimizer", f"one of {', '.join(OPTIMIZERS)}", self.optimizer in OPTIMIZERS)
        self._expect("dtype", "float32 or float64", self.dtype in ("float32", "float64"))

    def _expect(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option}: expected {expected}, got {getattr(self, name)}")


class Trainer:
    """A run: the model, its optimiser, the streams, and how far they are.

    Parameters
    ----------
    config, corpus
        What to do, on what.
    vocabulary
        Where a resumed run has it from; None makes it from the training text.
    ops
        See `CharModel`.

    Attributes
    ----------
    losses
        Bits per character of every step so far; their number is the number of the next step.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        vocabulary: Vocabulary | None = None,
        *,
        ops: ModuleType = functional,
    ) -> None:
        self.config, self.corpus = config, corpus
        self.vocabulary = vocabulary or Vocabulary.of(corpus.training)
        self.model = CharModel(
            len(self.vocabulary),
            cell=config.cell,
            embedding=config.embedding,
            hidden=config.hidden,
            layers=config.layers,
            dtype=config.dtype,
            rng=np.random.default_rng(config.seed),
            ops=ops,
        )
        if len(corpus.training) <= config.batch:
            raise InputError(
                f"{corpus.name}: expected more characters than the {config.batch} streams of --batch, "
                f"got {len(corpus.training)}"
            )
        self.streams = Streams(self.vocabulary.encode(corpus.training), config.batch, config.seq_len)
        self.state: State | None = None
        self.losses: list[float] = []
        parts = self._parts(self.model.parameters).items()
        decays = {"matrices": config.weight_decay, "biases": 0.0}
        self.optimizers = {
            name: OPTIMIZERS[config.optimizer]([part], config.lr, weight_decay=decays[name])
            for name, part in parts
        }

    def _parts(self, flat: Array) -> dict[str, Array]:
        """What decays and what does not."""
        return {"matrices": flat[: self.model.first_bias], "biases": flat[self.model.first_bias :]}

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return len(self.losses) >= self.config.steps

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over the first twentieth of the steps, under half a cosine that ends near zero."""
        warm_up = max(1, self.config.steps // 20)
        decay = 0.5 + 0.5 * math.cos(math.pi * step / self.config.steps)
        return self.config.lr * min(1.0, (step + 1) / warm_up) * decay

    def step(self) -> float:
        """Take one step and return its loss in bits per character.

        Raises
        ------
        InputError
            If the loss or a gradient is not finite; the parameters are still those of the step before.
        """
        config, model, step = self.config, self.model, len(self.losses)
        inputs, targets = self.streams.chunk(step)
        key = _key(config.seed, step) if config.dropout else None
        loss, state = model.forward_and_backward(inputs, targets, self.state, dropout=config.dropout, key=key)
        norm = optim.clip_grad_norm([model.gradients], config.clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InputError(
                f"the loss became {loss} (gradient norm {norm}) at step {step + 1}: expected finite numbers; "
                "try a smaller --lr or --clip"
            )
        for name, gradient in self._parts(model.gradients).items():
            self.optimizers[name].lr = self.learning_rate(step)
            self.optimizers[name].step([gradient])
        self.state = state
        self.losses.append(loss / math.log(2.0))
        return self.losses[-1]

    def state_dict(self) -> dict[str, Array]:
        """What the next steps depend on besides the parameters and the configuration."""
        hx = self.state if isinstance(self.state, tuple) else (self.state,)
        tensors = {f"state.{i}": part for i, part in enumerate(hx) if part is not None}
        for name, optimizer in self.optimizers.items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in optimizer.state_dict().items()}
        return tensors | {"losses": np.array(self.losses, dtype=np.float64)}

    def load_state_dict(self, tensors: Mapping[str, Array]) -> None:
        """Go on from a `state_dict`.

        Raises
        ------
        ValueError
            If something is missing or has another shape or dtype.
        """
        losses = tensors.get("losses")
        if losses is None or losses.ndim != 1 or losses.dtype != np.float64:
            raise ValueError("expected the losses of the run so far, got none")
        for name, optimizer in self.optimizers.items():
            prefix = f"{name}."
            own = {
                key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)
            }
            try:
                optimizer.load_state_dict(own)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name} of the optimiser: {error}") from None
        self.losses = losses.tolist()
        if self.losses:
            self.state = self._loaded_state(tensors)

    def _loaded_state(self, tensors: Mapping[str, Array]) -> State:
        config, model = self.config, self.model
        shape = (config.layers, config.batch, config.hidden)
        parts = [tensors.get(f"state.{i}") for i in range(2 if model.kind == "lstm" else 1)]
        for part in parts:
            if part is None or part.shape != shape or part.dtype != model.parameters.dtype:
                raise ValueError(f"expected recurrent states of shape {shape} and dtype {config.dtype}")
        return (parts[0], parts[1]) if len(parts) == 2 else parts[0]  # type: ignore[return-value]


def _key(seed: int, step: int) -> int:
    return int(np.random.default_rng((seed, step)).integers(2**64, dtype=np.uint64))


def evaluate(model: CharModel, ids: Ids, *, batch: int = 32, seq_len: int = 64) -> float:
    """Bits per character of a text, every character but the first predicted once, in `batch` streams.

    The streams start from a zero state, so the figure is a little above that of reading the text in one go.
    """
    count = len(ids) - 1
    batch = min(batch, -(-count // seq_len))
    rows = -(-count // (batch * seq_len)) * seq_len  # a stream's length
    inputs = np.zeros((batch, rows), dtype=np.int32)
    targets = np.full((batch, rows), -100, dtype=np.int32)
    inputs.reshape(-1)[:count], targets.reshape(-1)[:count] = ids[:-1], ids[1:]
    total, state = 0.0, None
    for start in range(0, rows, seq_len):
        chunk = slice(start, start + seq_len)
        loss, state = model.loss(
            np.ascontiguousarray(inputs.T[chunk]), np.ascontiguousarray(targets.T[chunk]), state
        )
        total += loss
    return total / count / math.log(2.0)
