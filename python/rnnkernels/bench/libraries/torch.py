"""PyTorch: nn.LSTM, nn.GRU and nn.RNN, with oneDNN, which is the default, and without; a cell for a step.

Ragged batches are packed sequences, packed and padded within the call, as PyTorch wants them.  For int8 the
layer is quantized dynamically, which PyTorch does for LSTM and GRU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ...testing import Array
from ..grid import Row
from .base import Way

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEPS = {"lstm": torch.lstm_cell, "gru": torch.gru_cell, "rnn": torch.rnn_tanh_cell}


class PyTorch:
    """On the CPU."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.version: str = torch.__version__

    def ways(self, row: Row) -> dict[str, Way]:
        """The layer with oneDNN and without, and a single step as one call of the cell."""
        int8 = row.dtype == "int8" and row.cell in ("lstm", "gru") and not row.training
        if not (row.dtype in DTYPES or int8):
            return {}
        problem = row.problem()
        layer = LAYERS[row.cell](row.I, row.H, row.layers, bidirectional=row.directions == 2)
        flat = chain.from_iterable(chain.from_iterable(problem.params))
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), flat, strict=True):
                parameter.copy_(torch.from_numpy(value))
        if int8:
            quantized = _quantized(layer)
            x = torch.from_numpy(problem.x)
            return {"dynamic": Way(torch.inference_mode()(lambda: quantized(x)), _arrays)}
        dtype = DTYPES[row.dtype]
        layer = layer.to(dtype)
        x, dy = torch.from_numpy(problem.x).to(dtype), torch.from_numpy(problem.dy).to(dtype)
        x.requires_grad_(row.training)
        lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)
        inputs = [x, *layer.parameters()]

        def forward() -> Any:
            if lengths is None:
                return layer(x)
            y, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
            return pad_packed_sequence(y, total_length=row.T)[0], state

        def training() -> Any:
            y, state = forward()
            return y, state, torch.autograd.grad(y, inputs, dy)

        def step() -> Any:
            zeros = torch.zeros(row.B, row.H, dtype=dtype)
            state = STEPS[row.cell](x[0], (zeros, zeros) if row.cell == "lstm" else zeros, *inputs[1:])
            states = state if row.cell == "lstm" else (state,)
            return states[0][None], tuple(part[None] for part in states)

        compute = training if row.training else torch.inference_mode()(forward)
        ways = {name: Way(_with(onednn, compute), _arrays) for name, onednn in ONEDNN.items()}
        if row.T == row.layers == row.directions == 1 and not row.training:
            ways["cell"] = Way(_with(True, torch.inference_mode()(step)), _arrays)
        return ways


ONEDNN = {"oneDNN": True, "no oneDNN": False}


def _quantized(layer: torch.nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to another package some day
        outer = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(layer), {type(layer)}, dtype=torch.qint8
        )
    return outer[0]


def _with(onednn: bool, compute: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        torch.backends.mkldnn.enabled = onednn
        return compute()

    return call


def _arrays(result: Any) -> list[Array]:
    y, state, *gradients = result
    states = state if isinstance(state, tuple) else (state,)
    return [part.detach().float().numpy() for part in (y, *states, *chain.from_iterable(gradients))]
