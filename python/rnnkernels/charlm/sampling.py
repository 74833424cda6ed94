"""Text out: one character a step from the packed weights, the state carried along.

Streaming inference as the library means it: `pack` lays the weights out once, `step` runs one time step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import functional
from ..types import Array
from .corpus import InputError, Vocabulary
from .model import CharModel


class Sampler:
    """Writes characters one after another; the weights are those of the moment it was made.

    Parameters
    ----------
    model, vocabulary
        What was trained, and the characters behind its ids.
    temperature
        Logits are divided by it; 0 takes the likeliest character each time.
    rng
        Where the choices come from.
    """

    def __init__(
        self, model: CharModel, vocabulary: Vocabulary, *, temperature: float, rng: np.random.Generator
    ) -> None:
        self.vocabulary, self.temperature, self.rng = vocabulary, temperature, rng
        self._pack = functional.pack(model.kind, model.stack())
        self._weight, self._bias = (part.copy() for part in model.head)

    def stream(self, prompt: str, length: int) -> Iterator[str]:
        """Read `prompt`, then yield `length` characters that follow it.

        An empty prompt starts as a text would go on after a line's end.

        Raises
        ------
        InputError
            If the prompt has a character that the model does not know; names it.
        """
        ids = self.vocabulary.encode(prompt or self._opening())
        if not ids.all():
            character = prompt[int(np.argmin(ids))]
            raise InputError(
                f"--prompt: expected characters the model was trained on, got {character!r} "
                f"(U+{ord(character):04X})"
            )
        return self._stream(ids, length)

    def _opening(self) -> str:
        return "\n" if "\n" in self.vocabulary.characters else self.vocabulary.characters[0]

    def _stream(self, ids: Array, length: int) -> Iterator[str]:
        state = None
        for token in ids[:-1]:
            _, state = self._pack.step(np.array([token], dtype=np.int32), state)
        token = int(ids[-1])
        for _ in range(length):
            y, state = self._pack.step(np.array([token], dtype=np.int32), state)  # (1, H)
            logits = functional.linear_forward(y, self._weight, self._bias, save=False).y[0]  # (V)
            token = self._choose(logits.astype(np.float64))
            yield self.vocabulary.character(token)

    def _choose(self, logits: Array) -> int:
        logits[Vocabulary.unknown] = -np.inf  # it has no character to write
        if self.temperature == 0.0:
            return int(np.argmax(logits))
        weights = np.exp((logits - logits.max()) / self.temperature).cumsum()
        return int(np.searchsorted(weights, self.rng.random() * weights[-1], side="right"))
