"""The character model against its twin in PyTorch: the same initial weights, the same batches, taking turns.

Prints the loss of both at equal steps, how far apart they are, and how many times as many characters a
second ours learns.  The twin is what one would write: nn.Embedding, nn.LSTM, nn.Linear, AdamW.  In float32
a rounding grows to percents of a single loss within a thousand steps, in any two programs; float64 shows
that nothing else differs, and means over a hundred steps stay together.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import torch

import rnnkernels
from rnnkernels.bench import quartiles, ratios
from rnnkernels.charlm import Config, Trainer, standard_library

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn-tanh": torch.nn.RNN}


class Twin(torch.nn.Module):
    """The model of a `Trainer`, and its steps; takes over the weights of the moment it is made."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        config, classes = trainer.config, len(trainer.vocabulary)
        self.trainer, self.losses, self.state = trainer, [], None
        self.embedding = torch.nn.Embedding(classes, config.embedding)
        self.rnn = LAYERS[config.cell](config.embedding, config.hidden, config.layers)
        self.head = torch.nn.Linear(config.hidden, classes)
        self.to(getattr(torch, config.dtype))
        with torch.no_grad():
            for name, array in trainer.model.state_dict().items():
                owner, _, own = name.rpartition(".")
                getattr(getattr(self, owner or "rnn"), own).copy_(torch.from_numpy(array))
        decayed = [tensor for tensor in self.parameters() if tensor.ndim == 2]
        others = [tensor for tensor in self.parameters() if tensor.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))

    def step(self) -> None:
        """One step on the chunk of `Trainer` with the same number."""
        trainer, step = self.trainer, len(self.losses)
        inputs, targets = (torch.from_numpy(part) for part in trainer.streams.chunk(step))
        y, state = self.rnn(self.embedding(inputs), self.state)
        loss = torch.nn.functional.cross_entropy(self.head(y).flatten(0, 1), targets.flatten().long())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), trainer.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = trainer.learning_rate(step)
        self.optimizer.step()
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        self.losses.append(loss.item() / math.log(2.0))


def seconds(run: Trainer | Twin, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        run.step()
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", choices=list(LAYERS), default="lstm")
    parser.add_argument("--steps", type=int, default=200, help="of each; the schedule is that of a whole run")
    parser.add_argument("--turn", type=int, default=10, help="steps a turn")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=rnnkernels.get_num_threads())
    options = parser.parse_args()
    rnnkernels.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    ours = Trainer(Config(cell=options.cell, dtype=options.dtype), standard_library())
    twin = Twin(ours)
    times: dict[str, list[float]] = {"ours": [], "twin": []}
    for turn in range(options.steps // options.turn):
        order = ("ours", "twin") if turn % 2 else ("twin", "ours")
        for name in order:
            times[name].append(seconds(ours if name == "ours" else twin, options.turn))
        print(f"step {len(ours.losses)}: ours {ours.losses[-1]:.4f}, twin {twin.losses[-1]:.4f} bits/char")

    differences = [abs(a - b) / b for a, b in zip(ours.losses, twin.losses, strict=True)]
    windows = [
        abs(sum(ours.losses[i : i + 100]) / sum(twin.losses[i : i + 100]) - 1.0)
        for i in range(0, len(ours.losses) - 99, 100)
    ]
    characters = ours.config.batch * ours.config.seq_len
    report = {
        "steps": len(ours.losses),
        "threads": options.threads,
        "dtype": options.dtype,
        "largest difference of a loss": max(differences),
        "first step that is 1% apart": next((i + 1 for i, d in enumerate(differences) if d > 0.01), None),
        "largest difference of a mean over 100 steps": max(windows, default=None),
        "characters a second, ours": characters / quartiles(times["ours"]).median,
        "characters a second, twin": characters / quartiles(times["twin"]).median,
        "times as fast": ratios(times["twin"], times["ours"])._asdict(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
