"""ONNX Runtime: the ONNX model of a row on its CPU provider; inference alone."""

from __future__ import annotations

import onnxruntime

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
        if row.dtype != "float32" or row.training:
            return {}
        problem = row.problem()
        session = onnxruntime.InferenceSession(
            onnxmodel.model(row, problem), self.options, providers=["CPUExecutionProvider"]
        )
        feeds = onnxmodel.feeds(problem)
        return {
            "session": Way(lambda: session.run(None, feeds), lambda outputs: onnxmodel.arrays(row, outputs))
        }
