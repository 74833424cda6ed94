"""Output heads, the definition: y = x W' + b, softmax cross-entropy, and the two together.

Formulas as in torch.nn.functional.linear and cross_entropy (class indices).  The one subtlety: a row whose
target is ignored does not enter at all, whatever it holds.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..types import (
    Array,
    CrossEntropyForward,
    CrossEntropyGrads,
    CrossEntropySaved,
    LinearCrossEntropyGrads,
    LinearCrossEntropySaved,
    LinearForward,
    LinearGrads,
    LinearSaved,
    Needs,
    Out,
)
from . import common


def linear_forward(
    x: Array, w: Array, b: Array | None = None, *, save: bool = True, out: Out | None = None
) -> LinearForward:
    """y = x w' + b over the last dimension.

    Parameters
    ----------
    x, w, b
        (..., I), (O, I), (O) or None; one floating-point dtype.
    save
        False returns ``saved`` as None.
    out
        Array for y by name, or an earlier result.

    Returns
    -------
    LinearForward
        y (..., O) and saved, for ``linear_backward``.

    Raises
    ------
    ValueError
        For a wrong shape.
    TypeError
        For what is no array, or of another dtype.
    """
    _check_linear("x", x, "O", "I", w, b)
    y = x @ w.T + (0 if b is None else b)
    saved = LinearSaved(x, w, b is not None) if save else None
    return LinearForward(**common.deliver(LinearForward._fields, {"y": y}, out), saved=saved)


def linear_backward(
    dy: Array,
    saved: LinearSaved,
    *,
    needs: Needs | None = None,
    out: Out | None = None,
    accumulate: bool = False,
) -> LinearGrads:
    """Gradients of ``linear_forward``: dx = dy w, dw = sum dy' x, db = sum dy.

    Parameters
    ----------
    dy
        (..., O).
    saved
        From ``linear_forward``.
    needs, out, accumulate
        As in ``lstm_backward``, over the names dx, dw, db.

    Returns
    -------
    LinearGrads
        dx (..., I), dw (O, I), db (O); db is None without a bias.

    Raises
    ------
    ValueError
        For a wrong shape or an unknown name in ``needs`` or ``out``.
    TypeError
        For what is no array, of another dtype, or saved by another operation.
    """
    common.check_saved(saved, LinearSaved)
    x, w = saved.x, saved.w
    common.check("dy", dy, "(..., O)", (*x.shape[:-1], len(w)), w.dtype)
    gradients: dict[str, common.Thunk] = {
        "dx": lambda: dy @ w,
        "dw": lambda: _rows(dy).T @ _rows(x),
        "db": lambda: _rows(dy).sum(axis=0) if saved.has_bias else None,
    }
    return LinearGrads(**common.collect(LinearGrads._fields, gradients, needs, out, accumulate))


def softmax_cross_entropy_forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, reduction: str = "mean"
) -> CrossEntropyForward:
    """Loss of a row: log(sum(exp(logits))) - logits[target], in nats; 0 where the target is ``ignore_index``.

    Parameters
    ----------
    logits
        (..., V), any floating-point dtype.
    targets
        (...), int32 or int64 in [0, V), or ``ignore_index`` (which may itself lie in [0, V)).
    reduction
        "mean" over the targets that are not ignored (NaN if there are none), "sum", or "none".

    Returns
    -------
    CrossEntropyForward
        loss () or, for "none", (...), of the dtype of logits; saved, for ``softmax_cross_entropy_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, a target out of range or an unknown reduction.
    TypeError
        For what is no array, or of another dtype.
    """
    common.check_float("logits", logits, "(..., V)", max(np.ndim(logits), 1))
    counted = _check_targets(targets, logits.shape[:-1], logits.shape[-1], ignore_index, reduction)
    lse, loss = np.zeros(targets.shape, logits.dtype), np.zeros(targets.shape, logits.dtype)
    lse[counted], loss[counted] = _lse_and_loss(logits[counted], targets[counted])
    count = int(counted.sum())
    saved = CrossEntropySaved(logits, targets, ignore_index, reduction, lse, count)
    return CrossEntropyForward(_reduce(loss, count, reduction), saved)


def softmax_cross_entropy_backward(
    dloss: Array | float | None, saved: CrossEntropySaved
) -> CrossEntropyGrads:
    """Gradient of ``softmax_cross_entropy_forward``: dloss (softmax(logits) - onehot(target)), mean: / count.

    Parameters
    ----------
    dloss
        None for 1, a number, or an array of the shape of the loss.
    saved
        From ``softmax_cross_entropy_forward``.

    Returns
    -------
    CrossEntropyGrads
        dlogits (..., V), exactly 0 in rows whose target is ignored.

    Raises
    ------
    ValueError
        For a dloss of another shape.
    TypeError
        For a dloss of another dtype, or saved by another operation.
    """
    common.check_saved(saved, CrossEntropySaved)
    logits, targets = saved.logits, saved.targets
    counted = targets != saved.ignore_index
    scale = _scale(dloss, saved)[counted]
    dlogits = np.zeros(logits.shape, logits.dtype)
    dlogits[counted] = _dlogits(logits[counted], targets[counted], saved.lse[counted], scale)
    return CrossEntropyGrads(dlogits)


def linear_cross_entropy_forward(
    h: Array,
    w: Array,
    b: Array | None,
    targets: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> CrossEntropyForward:
    """``softmax_cross_entropy_forward`` of the logits h w' + b, which the kernel never holds all at once.

    Parameters
    ----------
    h, w, b
        (..., H), (V, H), (V) or None; one floating-point dtype.
    targets, ignore_index, reduction
        As in ``softmax_cross_entropy_forward``.

    Returns
    -------
    CrossEntropyForward
        loss () or, for "none", (...); saved, for ``linear_cross_entropy_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, a target out of range or an unknown reduction.
    TypeError
        For what is no array, or of another dtype.
    """
    _check_linear("h", h, "V", "H", w, b)
    counted = _check_targets(targets, h.shape[:-1], len(w), ignore_index, reduction)
    logits = h[counted] @ w.T + (0 if b is None else b)  # (count, V)
    lse, loss = np.zeros(targets.shape, h.dtype), np.zeros(targets.shape, h.dtype)
    lse[counted], loss[counted] = _lse_and_loss(logits, targets[counted])
    saved = LinearCrossEntropySaved(h, w, b, targets, ignore_index, reduction, lse, len(logits))
    return CrossEntropyForward(_reduce(loss, len(logits), reduction), saved)


def linear_cross_entropy_backward(
    dloss: Array | float | None,
    saved: LinearCrossEntropySaved,
    *,
    needs: Needs | None = None,
    out: Out | None = None,
    accumulate: bool = False,
) -> LinearCrossEntropyGrads:
    """Gradients of ``linear_cross_entropy_forward``; the logits are computed again.

    Parameters
    ----------
    dloss
        None for 1, a number, or an array of the shape of the loss.
    saved
        From ``linear_cross_entropy_forward``.
    needs, out, accumulate
        As in ``lstm_backward``, over the names dh, dw, db.

    Returns
    -------
    LinearCrossEntropyGrads
        dh (..., H), exactly 0 in rows whose target is ignored; dw (V, H); db (V) or None without a bias.

    Raises
    ------
    ValueError
        For a dloss of another shape or an unknown name in ``needs`` or ``out``.
    TypeError
        For a dloss of another dtype, or saved by another operation.
    """
    common.check_saved(saved, LinearCrossEntropySaved)
    w, b, counted = saved.w, saved.b, saved.targets != saved.ignore_index
    h = saved.h[counted]  # (count, H)
    scale = _scale(dloss, saved)[counted]
    logits = h @ w.T + (0 if b is None else b)
    dlogits = _dlogits(logits, saved.targets[counted], saved.lse[counted], scale)  # (count, V)

    def dh() -> Array:
        result = np.zeros(saved.h.shape, w.dtype)
        result[counted] = dlogits @ w
        return result

    gradients: dict[str, common.Thunk] = {
        "dh": dh,
        "dw": lambda: dlogits.T @ h,
        "db": lambda: None if b is None else dlogits.sum(axis=0),
    }
    fields = LinearCrossEntropyGrads._fields
    return LinearCrossEntropyGrads(**common.collect(fields, gradients, needs, out, accumulate))


def _lse_and_loss(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Of rows (n, V) with targets (n): log-sum-exp and loss, both (n)."""
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):  # a row of -inf, or with an inf, is NaN as in PyTorch
        lse = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
    return lse, lse - logits[np.arange(len(logits)), targets]


def _dlogits(logits: Array, targets: Array, lse: Array, scale: Array) -> Array:
    """Of rows (n, V): scale * (softmax - onehot)."""
    p = np.exp(logits - lse[:, None])
    p[np.arange(len(p)), targets] -= 1
    return np.asarray(p * scale[:, None])


def _reduce(loss: Array, count: int, reduction: str) -> Array:
    if reduction == "none":
        return loss
    count = 1 if reduction == "sum" else count
    return np.asarray(loss.sum() / count if count else np.nan, loss.dtype)


def _scale(dloss: Array | float | None, saved: CrossEntropySaved | LinearCrossEntropySaved) -> Array:
    """The gradient of each row's own loss, of the shape of the targets."""
    lse = saved.lse
    if isinstance(dloss, np.ndarray):
        shape = lse.shape if saved.reduction == "none" else ()
        common.check("dloss", dloss, "the loss's shape", shape, lse.dtype, "the loss")
    count = max(saved.count, 1) if saved.reduction == "mean" else 1
    return np.asarray(np.full(lse.shape, 1 if dloss is None else dloss, lse.dtype) / count)


def _check_linear(name: str, x: Array, rows: str, columns: str, w: Array, b: Array | None) -> None:
    common.check_float("w", w, f"({rows}, {columns})", 2)
    common.check_float(name, x, f"(..., {columns})", max(np.ndim(x), 1))
    common.check(name, x, f"(..., {columns})", (*x.shape[:-1], w.shape[1]), w.dtype, "w")
    if b is not None:
        common.check("b", b, f"({rows})", (len(w),), w.dtype, "w")


def _check_targets(
    targets: Array, shape: tuple[int, ...], V: int, ignore_index: int, reduction: str
) -> Array:
    """Check, and return which targets count."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    if not isinstance(targets, np.ndarray):
        raise TypeError(f"targets: expected a NumPy array, got {type(targets).__name__}")
    if targets.dtype not in (np.int32, np.int64):
        raise TypeError(f"targets: expected int32 or int64, got {targets.dtype}")
    if targets.shape != shape:
        raise ValueError(f"targets: expected {shape}, got {targets.shape}")
    counted = np.asarray(targets != ignore_index)
    for at in np.argwhere(counted & ((targets < 0) | (targets >= V))):
        index = tuple(int(k) for k in at)
        raise ValueError(
            f"targets: expected classes in [0, V) = [0, {V}) or ignore_index = {ignore_index}, "
            f"got {targets[index]} at {index}"
        )
    return counted


def _rows(a: Array) -> Array:
    return a.reshape(prod(a.shape[:-1]), a.shape[-1])
