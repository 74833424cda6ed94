"""A row as an ONNX model: LSTM, GRU or RNN nodes with the weights in them, as an exporter would write them.

Its gates stand in another order, LSTM i, o, f, g and GRU z, r, n, and its output is (T, D, B, H).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...testing import Array
from ..grid import Problem, Row
from .base import reordered

GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ours, in the order of ONNX
OPSET, IR_VERSION = 14, 8  # old enough for every runtime


def model(row: Row, problem: Problem) -> bytes:
    """Serialized; inputs x and, if ragged, lengths (int32); outputs y, and h_n_l0, c_n_l0 of each layer."""
    T, B, I, H, D = row.T, row.B, row.I, row.H, row.directions
    states = ("h_n", "c_n") if row.cell == "lstm" else ("h_n",)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (T, B, I))]
    if row.ragged:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, (B,)))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (T, D, B, H))]
    nodes, constants, x = [], [], "x"
    for number, layer in enumerate(problem.params):
        last = number == row.layers - 1
        y, hx = "y" if last else f"y_l{number}", [f"{state}_l{number}" for state in states]
        arrays = weights(layer, GATES[row.cell])
        constants += [numpy_helper.from_array(array, f"{name}_l{number}") for name, array in arrays.items()]
        names = [x, *(f"{name}_l{number}" for name in arrays), "lengths" if row.ragged else ""]
        nodes.append(helper.make_node(row.cell.upper(), names, [y, *hx], **_attributes(row)))
        outputs += [helper.make_tensor_value_info(state, TensorProto.FLOAT, (D, B, H)) for state in hx]
        if not last:  # (T, D, B, H) -> (T, B, D*H)
            turned, x = f"{y}_turned", f"x_l{number + 1}"
            shape = np.array([T, B, D * H])
            constants.append(numpy_helper.from_array(shape, f"{x}_shape"))
            nodes.append(helper.make_node("Transpose", [y], [turned], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [turned, f"{x}_shape"], [x]))
    graph = helper.make_graph(nodes, row.shape, inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    serialized: bytes = made.SerializeToString()
    return serialized


def weights(layer: Sequence[tuple[Array, Array, Array, Array]], gates: Sequence[int]) -> dict[str, Array]:
    """Of all directions: W (D, G*H, I), R (D, G*H, H) and B (D, 2*G*H), both biases behind each other."""
    w_ih, w_hh, b_ih, b_hh = (
        np.stack([reordered(array, gates) for array in arrays]) for arrays in zip(*layer, strict=True)
    )
    return {"W": w_ih, "R": w_hh, "B": np.concatenate([b_ih, b_hh], axis=1)}


def feeds(problem: Problem) -> dict[str, Array]:
    """The inputs by name."""
    lengths = {} if problem.lengths is None else {"lengths": problem.lengths.astype(np.int32)}
    return {"x": problem.x, **lengths}


def arrays(row: Row, outputs: Sequence[Array]) -> list[Array]:
    """The outputs in the order of `Row.result_names`."""
    y, *states = outputs
    count = len(states) // row.layers  # of states of a layer
    return [
        y.transpose(0, 2, 1, 3).reshape(row.T, row.B, -1),
        *(np.concatenate(states[state::count]) for state in range(count)),
    ]


def _attributes(row: Row) -> dict[str, Any]:
    attributes: dict[str, Any] = {"hidden_size": row.H}
    if row.directions == 2:
        attributes["direction"] = "bidirectional"
    if row.cell == "gru":
        attributes["linear_before_reset"] = 1
    return attributes
