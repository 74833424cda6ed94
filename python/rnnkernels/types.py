"""Results and saved activations of every operation, and the names of its argument types.

Imports numpy alone: the references and the kernels both return these, so a forward by one may be followed by
a backward by the other.  Sizes as in the mathematics: T time, B batch, I input, H hidden, V classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Lengths: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]  # (B), steps of each sequence
Needs: TypeAlias = Collection[str]  # names of the gradients to compute
Out: TypeAlias = Mapping[str, Any] | tuple[Any, ...]  # field name -> array, or an earlier result
State: TypeAlias = Array | tuple[Array, Array]  # h, or (h, c) for an LSTM
CellParams: TypeAlias = tuple[Array, Array, Array | None, Array | None]  # w_ih, w_hh, b_ih, b_hh
StackParams: TypeAlias = Sequence[Sequence[CellParams]]  # [layer][direction]


def is_floating(array: object) -> bool:
    """Whether it is an array of floating-point numbers, which bfloat16 is not to NumPy."""
    return isinstance(array, np.ndarray) and (array.dtype.kind == "f" or array.dtype.name == "bfloat16")


# -- what a backward pass needs ----------------------------------------------------------------------------
# Borrowed arrays are the caller's own and must not change until backward.  Owned ones are in user time,
# beside x[t], exactly 0 in padding, and are never the arrays that forward returned.


@dataclass(frozen=True, eq=False)
class LSTMSaved:
    """What ``lstm_forward`` keeps.  Borrowed: x, weights, biases, h0, c0.  Owned: lengths, gates, c, h."""

    x: Array  # (T, B, I), or ids (T, B)
    w_ih: Array  # (4*H, I)
    w_hh: Array  # (4*H, H)
    b_ih: Array | None  # (4*H) or (B, 4*H)
    b_hh: Array | None  # (4*H)
    h0: Array | None  # (B, H)
    c0: Array | None  # (B, H)
    lengths: npt.NDArray[np.int64] | None  # (B)
    reverse: bool
    gates: Array  # (T, B, 4*H): i, f, g, o after their nonlinearity
    c: Array  # (T, B, H)
    h: Array  # (T, B, H)


@dataclass(frozen=True, eq=False)
class GRUSaved:
    """What ``gru_forward`` keeps.  Borrowed: x, weights, biases, h0.  Owned: lengths, gates, h."""

    x: Array  # (T, B, I), or ids (T, B)
    w_ih: Array  # (3*H, I)
    w_hh: Array  # (3*H, H)
    b_ih: Array | None  # (3*H) or (B, 3*H)
    b_hh: Array | None  # (3*H)
    h0: Array | None  # (B, H)
    lengths: npt.NDArray[np.int64] | None  # (B)
    reverse: bool
    reset_after: bool
    gates: Array  # (T, B, 4*H): r, z, n, hn = W_hn h + b_hn; (T, B, 3*H): r, z, n if not reset_after
    h: Array  # (T, B, H)


@dataclass(frozen=True, eq=False)
class RNNSaved:
    """What ``rnn_forward`` keeps.  Borrowed: x, weights, biases, h0.  Owned: lengths, h."""

    x: Array  # (T, B, I), or ids (T, B)
    w_ih: Array  # (H, I)
    w_hh: Array  # (H, H)
    b_ih: Array | None  # (H) or (B, H)
    b_hh: Array | None  # (H)
    h0: Array | None  # (B, H)
    lengths: npt.NDArray[np.int64] | None  # (B)
    reverse: bool
    nonlinearity: str  # "tanh" or "relu"
    h: Array  # (T, B, H)


@dataclass(frozen=True, eq=False)
class LinearSaved:
    """What ``linear_forward`` keeps.  Borrowed: x, w."""

    x: Array  # (..., I)
    w: Array  # (O, I)
    has_bias: bool


@dataclass(frozen=True, eq=False)
class CrossEntropySaved:
    """What ``softmax_cross_entropy_forward`` keeps.  Borrowed: logits, targets.  Owned: lse."""

    logits: Array  # (..., V)
    targets: Array  # (...)
    ignore_index: int
    reduction: str  # "mean", "sum" or "none"
    lse: Array  # (...): log(sum(exp(logits))); of no meaning where the target is ignored
    count: int  # targets that are not ignored; on a GPU an array () of int64


@dataclass(frozen=True, eq=False)
class LinearCrossEntropySaved:
    """What ``linear_cross_entropy_forward`` keeps.  Borrowed: h, w, b, targets.  Owned: lse."""

    h: Array  # (..., H)
    w: Array  # (V, H)
    b: Array | None  # (V)
    targets: Array  # (...)
    ignore_index: int
    reduction: str  # "mean", "sum" or "none"
    lse: Array  # (...): log(sum(exp(h w' + b))); of no meaning where the target is ignored
    count: int  # targets that are not ignored; on a GPU an array () of int64


@dataclass(frozen=True, eq=False)
class StackSaved:
    """What ``stack_forward`` keeps: what each cell saved, its x the (dropped-out) input of the layer."""

    kind: str
    params: StackParams
    layers: tuple[tuple[LSTMSaved | GRUSaved | RNNSaved, ...], ...]  # [layer][direction]
    dropout: float
    key: int | None  # 64-bit Philox key of the dropout masks; None without dropout
    has_hx: bool


# -- results of forward ------------------------------------------------------------------------------------


class LSTMForward(NamedTuple):
    """Result of ``lstm_forward``."""

    y: Array  # (T, B, H)
    h_n: Array  # (B, H)
    c_n: Array  # (B, H)
    saved: LSTMSaved | None


class GRUForward(NamedTuple):
    """Result of ``gru_forward``."""

    y: Array  # (T, B, H)
    h_n: Array  # (B, H)
    saved: GRUSaved | None


class RNNForward(NamedTuple):
    """Result of ``rnn_forward``."""

    y: Array  # (T, B, H)
    h_n: Array  # (B, H)
    saved: RNNSaved | None


class LinearForward(NamedTuple):
    """Result of ``linear_forward``."""

    y: Array  # (..., O)
    saved: LinearSaved | None


class CrossEntropyForward(NamedTuple):
    """Result of ``softmax_cross_entropy_forward`` and ``linear_cross_entropy_forward``."""

    loss: Array  # () for reduction "mean" and "sum", (...) for "none"; nats
    saved: CrossEntropySaved | LinearCrossEntropySaved


class StackForward(NamedTuple):
    """Result of ``stack_forward``; D directions side by side in y."""

    y: Array  # (T, B, D*H)
    hx: State  # (L*D, B, H), a pair of them for an LSTM
    saved: StackSaved | None


# -- results of backward: None stands for a gradient that does not apply or was not asked for --------------


class LSTMGrads(NamedTuple):
    """Result of ``lstm_backward``; each gradient has the shape and dtype of its argument."""

    dx: Array | None = None
    dw_ih: Array | None = None
    dw_hh: Array | None = None
    db_ih: Array | None = None
    db_hh: Array | None = None
    dh0: Array | None = None
    dc0: Array | None = None
    dw_hr: Array | None = None
    dpeephole: Array | None = None


class GRUGrads(NamedTuple):
    """Result of ``gru_backward``; each gradient has the shape and dtype of its argument."""

    dx: Array | None = None
    dw_ih: Array | None = None
    dw_hh: Array | None = None
    db_ih: Array | None = None
    db_hh: Array | None = None
    dh0: Array | None = None


class RNNGrads(NamedTuple):
    """Result of ``rnn_backward``; each gradient has the shape and dtype of its argument."""

    dx: Array | None = None
    dw_ih: Array | None = None
    dw_hh: Array | None = None
    db_ih: Array | None = None
    db_hh: Array | None = None
    dh0: Array | None = None


class LinearGrads(NamedTuple):
    """Result of ``linear_backward``."""

    dx: Array | None = None
    dw: Array | None = None
    db: Array | None = None


class CrossEntropyGrads(NamedTuple):
    """Result of ``softmax_cross_entropy_backward``."""

    dlogits: Array


class LinearCrossEntropyGrads(NamedTuple):
    """Result of ``linear_cross_entropy_backward``."""

    dh: Array | None = None
    dw: Array | None = None
    db: Array | None = None


class StackGrads(NamedTuple):
    """Result of ``stack_backward``; params[layer][direction] = (dw_ih, dw_hh, db_ih, db_hh)."""

    dx: Array | None = None
    dhx: State | None = None
    params: tuple[tuple[tuple[Array | None, ...], ...], ...] | None = None


class LayerGrads(NamedTuple):
    """Result of a layer's ``backward``; params by PyTorch's names, biases only where the layer has them."""

    dx: Array | None
    dhx: State
    params: dict[str, Array]
