"""What `rnnkernels train` shows: a live bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ..charlm import Trainer

REFRESH, PLAIN_EVERY = 0.1, 5.0  # seconds
WINDOW = 50  # steps that the shown loss is the mean of


class Display(Protocol):
    """Where a run's news go."""

    def progress(self, trainer: Trainer) -> None:
        """After each step."""

    def sample(self, step: int, text: str) -> None:
        """What the model writes at a step."""

    def say(self, text: str) -> None:
        """A remark."""


@contextmanager
def display(trainer: Trainer) -> Iterator[Display]:
    """The display that suits standard output."""
    if not sys.stdout.isatty():
        yield _Plain(trainer)
        return
    columns = BarColumn(), TextColumn("{task.fields[news]}", markup=False)
    with Progress(*columns, console=Console(highlight=False), auto_refresh=False) as progress:
        yield _Live(trainer, progress)


class _Meter:
    """Turns steps into words, not more often than every so many seconds."""

    def __init__(self, trainer: Trainer, every: float) -> None:
        self.every = every
        self.first, self.start = len(trainer.losses), time.monotonic()
        self.last = self.start

    def news(self, trainer: Trainer) -> str | None:
        now = time.monotonic()
        if now - self.last < self.every and not trainer.done:
            return None
        self.last = now
        step, config = len(trainer.losses), trainer.config
        recent = trainer.losses[-WINDOW:]
        pace = (now - self.start) / (step - self.first)  # seconds a step
        left = timedelta(seconds=round(pace * (config.steps - step)))
        return (
            f"step {step}/{config.steps}  {sum(recent) / len(recent):.3f} bits/char  "
            f"{config.batch * config.seq_len / pace:,.0f} chars/s  {left} left"
        )


class _Plain:
    def __init__(self, trainer: Trainer) -> None:
        self._meter = _Meter(trainer, PLAIN_EVERY)

    def progress(self, trainer: Trainer) -> None:
        news = self._meter.news(trainer)
        if news is not None:
            self.say(news)

    def sample(self, step: int, text: str) -> None:
        self.say(f"--- sample after step {step}\n{text}\n---")

    def say(self, text: str) -> None:
        print(text, flush=True)


class _Live:
    def __init__(self, trainer: Trainer, progress: Progress) -> None:
        self._meter, self._progress = _Meter(trainer, REFRESH), progress
        self._task = progress.add_task("", total=trainer.config.steps, completed=len(trainer.losses), news="")

    def progress(self, trainer: Trainer) -> None:
        news = self._meter.news(trainer)
        if news is not None:
            self._progress.update(self._task, completed=len(trainer.losses), news=news)
            self._progress.refresh()

    def sample(self, step: int, text: str) -> None:
        self._progress.console.rule(f"sample after step {step}")
        self._progress.console.print(Text(text))
        self._progress.console.rule()

    def say(self, text: str) -> None:
        self._progress.console.print(Text(text))
