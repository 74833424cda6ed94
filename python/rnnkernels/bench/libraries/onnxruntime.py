"""ONNX Runtime: the ONNX model of a row on its CPU provider; inference alone.

For int8 it is quantized dynamically, a scale a row; of the three cells ONNX Runtime knows LSTM so.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from ..grid import Row
from . import onnxmodel
from .base import Way


class OnnxRuntime:
    """With its defaults but for the number of threads."""

    def __init__(self, threads: int) -> None:
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        self.version: str = onnxruntime.__version__

    def ways(self, row: Row) -> dict[str, Way]:
        """One session."""
        int8 = row.dtype == "int8" and row.cell == "lstm"
        if not (row.dtype == "float32" or int8) or row.training:
            return {}
        problem = row.problem()
        model = onnxmodel.model(row, problem)
        session = onnxruntime.InferenceSession(
            _quantized(model) if int8 else model, self.options, providers=["CPUExecutionProvider"]
        )
        feeds = onnxmodel.feeds(problem)
        return {
            "session": Way(lambda: session.run(None, feeds), lambda outputs: onnxmodel.arrays(row, outputs))
        }


def _quantized(model: bytes) -> bytes:
    """Weights of 7 bits, as it advises where products of 8 bits could overflow."""
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that is for other models
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            onnx.load_from_string(model),
            path,
            op_types_to_quantize=["LSTM"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()
