"""The character model against the same model in PyTorch: the same weights, the same batches, in turns.

Prints the loss of both at equal steps and how many times as many characters a second ours learns.  PyTorch
takes a turn in two forms: as nn.LSTM over one-hot vectors, which is the same function of the same weights
and so the twin that losses are compared with; and over an nn.Embedding, which is how one would write it for
speed, with an embedding of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

import rnnkernels
from rnnkernels.bench import quartiles, ratios
from rnnkernels.charlm import Config, Trainer, standard_library

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn-tanh": torch.nn.RNN}


class Twin(torch.nn.Module):
    """One-hot or embedded characters, PyTorch's recurrent layers, a linear head; steps like `Trainer`."""

    def __init__(self, trainer: Trainer, embedding: int | None) -> None:
        super().__init__()
        config, self.trainer, self.classes = trainer.config, trainer, len(trainer.vocabulary)
        self.embedding = torch.nn.Embedding(self.classes, embedding) if embedding else None
        self.rnn = LAYERS[config.cell](embedding or self.classes, config.hidden, config.layers)
        self.head = torch.nn.Linear(config.hidden, self.classes)
        if not embedding:
            for name, array in trainer.model.state_dict().items():
                owner = self.head if name.startswith("head.") else self.rnn
                getattr(owner, name.removeprefix("head.")).data.copy_(torch.from_numpy(array))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.lr)
        self.state, self.losses = None, []

    def step(self) -> float:
        """One step on the chunk of `Trainer` with the same number."""
        trainer, step = self.trainer, len(self.losses)
        inputs, targets = (torch.from_numpy(part).long() for part in trainer.streams.chunk(step))
        x = (
            self.embedding(inputs)
            if self.embedding
            else torch.nn.functional.one_hot(inputs, self.classes).float()
        )
        y, state = self.rnn(x, self.state)
        loss = torch.nn.functional.cross_entropy(self.head(y).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), trainer.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = trainer.learning_rate(step)
        self.optimizer.step()
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        self.losses.append(loss.item() / float(np.log(2.0)))
        return self.losses[-1]


def seconds(step: Callable[[], float], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", choices=list(LAYERS), default="lstm")
    parser.add_argument(
        "--steps", type=int, default=200, help="steps each takes; a whole run has the default number"
    )
    parser.add_argument("--turn", type=int, default=10, help="steps a turn")
    parser.add_argument("--embedding", type=int, default=64, help="width of the embedding of the second form")
    parser.add_argument("--threads", type=int, default=rnnkernels.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rnnkernels.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    ours = Trainer(Config(cell=options.cell), standard_library())
    runs = {"rnnkernels": ours, "one-hot": Twin(ours, None), "embedding": Twin(ours, options.embedding)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.steps // options.turn):
        names = list(runs)[turn % 3 :] + list(runs)[: turn % 3]
        for name in names:
            times[name].append(seconds(runs[name].step, options.turn))
        if not options.json:
            last = {name: run.losses[-1] for name, run in runs.items()}
            print(
                f"step {len(ours.losses)}: " + ", ".join(f"{name} {loss:.4f}" for name, loss in last.items())
            )

    pairs = zip(ours.losses, runs["one-hot"].losses, strict=True)
    report = {
        "steps": len(ours.losses),
        "largest difference of the loss to the twin's": max(abs(a - b) / b for a, b in pairs),
        "characters a second": {
            name: ours.config.batch * ours.config.seq_len / quartiles(spent).median
            for name, spent in times.items()
        },
        "times as fast (quartiles)": {
            name: ratios(times[name], times["rnnkernels"]) for name in ("one-hot", "embedding")
        },
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
