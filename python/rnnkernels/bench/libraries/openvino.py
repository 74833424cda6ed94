"""OpenVINO: the ONNX model of a row, compiled for the CPU; inference alone.

In float32: of itself it would compute in bfloat16 on CPUs that are fast at it.
"""

from __future__ import annotations

import io

import openvino

from ..grid import Row
from . import onnxmodel
from .base import Way


class OpenVino:
    """One stream, for latency."""

    def __init__(self, threads: int) -> None:
        self.core = openvino.Core()
        self.settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.version: str = openvino.__version__.split("-")[0]

    def ways(self, row: Row) -> dict[str, Way]:
        """One request that is used over and over, on the arrays themselves."""
        if row.dtype != "float32" or row.training:
            return {}
        problem = row.problem()
        model = self.core.read_model(io.BytesIO(onnxmodel.model(row, problem)))
        compiled = self.core.compile_model(model, "CPU", self.settings)
        request, feeds = compiled.create_infer_request(), onnxmodel.feeds(problem)
        return {
            "request": Way(
                lambda: request.infer(feeds, share_inputs=True, share_outputs=True),
                lambda result: onnxmodel.arrays(row, [result[output] for output in compiled.outputs]),
            )
        }
