"""Vanilla RNN (Elman 1990), the definition: one layer, one direction, forward and BPTT.

Two biases as in cuDNN and torch.nn.RNN; nonlinearity tanh or relu.  Twin of csrc/core/cells/rnn.h.
"""

from __future__ import annotations

import numpy as np

from ..types import Array, Lengths, Needs, Out, RNNForward, RNNGrads, RNNSaved
from . import common


def rnn_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Lengths | None = None,
    reverse: bool = False,
    save: bool = True,
    out: Out | None = None,
) -> RNNForward:
    """Run one Elman RNN layer over a batch of sequences: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu.

    Parameters
    ----------
    x
        (T, B, I) floats, or token ids (T, B) of int32 or int64 in [0, I): the columns of w_ih they name are
        gathered.  All floating-point arguments share one dtype.
    w_ih, w_hh
        (H, I) and (H, H).
    b_ih, b_hh
        (H) or None; b_ih may be (B, H), a bias per sequence.
    h0
        (B, H), or None for zeros.
    nonlinearity
        "tanh" or "relu"; both pass NaN on.
    lengths, reverse, save, out
        As in ``lstm_forward``; out takes y and h_n.

    Returns
    -------
    RNNForward
        y (T, B, H); h_n (B, H), the state after each sequence's last step; saved, for ``rnn_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, length, id or nonlinearity.
    TypeError
        For what is no array, or of another dtype.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    T, B, H = common.check_layer(1, x, w_ih, w_hh, b_ih, b_hh, h0=h0)
    length = common.check_lengths(lengths, T, B)
    scan = common.Scan(T, B, length, reverse)
    common.check_ids(x, w_ih, scan.valid)
    xg = common.project(x, w_ih, b_ih, scan.valid)  # (T, B, H)
    b_h = 0 if b_hh is None else b_hh
    h = common.copy_or_zeros("h0", h0, "(B, H)", (B, H), w_ih.dtype)
    hs = np.zeros((T, B, H), w_ih.dtype)

    for t, b in scan.steps:
        a = xg[t, b] + h[b] @ w_hh.T + b_h
        h[b] = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
        hs[t, b] = h[b]

    saved = RNNSaved(x, w_ih, w_hh, b_ih, b_hh, h0, length, reverse, nonlinearity, hs) if save else None
    results = common.deliver(RNNForward._fields, {"y": hs.copy(), "h_n": h}, out)
    return RNNForward(**results, saved=saved)


def rnn_backward(
    dy: Array | None,
    saved: RNNSaved,
    dh_n: Array | None = None,
    *,
    needs: Needs | None = None,
    out: Out | None = None,
    accumulate: bool = False,
) -> RNNGrads:
    """Gradients of ``rnn_forward`` by back-propagation through time.

    Parameters
    ----------
    dy, dh_n
        (T, B, H), (B, H): gradients with respect to y and h_n; None means zeros.  dy in padding is ignored.
    saved
        From ``rnn_forward``; the arrays it borrows must not have changed.
    needs, out, accumulate
        As in ``lstm_backward``.

    Returns
    -------
    RNNGrads
        Each gradient has the shape of its argument; None if not in ``needs``, for an absent bias, dx of ids.

    Raises
    ------
    ValueError
        For a wrong shape or an unknown name in ``needs`` or ``out``.
    TypeError
        For what is no array, of another dtype, or saved by another operation.
    """
    common.check_saved(saved, RNNSaved)
    (T, B, H), dtype = saved.h.shape, saved.h.dtype
    dy = common.copy_or_zeros("dy", dy, "(T, B, H)", (T, B, H), dtype)
    dh = common.copy_or_zeros("dh_n", dh_n, "(B, H)", (B, H), dtype)
    scan = common.Scan(T, B, saved.lengths, saved.reverse)
    h_prev = scan.previous(saved.h, saved.h0)
    da = np.zeros((T, B, H), dtype)  # of the pre-activation, so both dxg and dhg

    for t, b in reversed(scan.steps):
        h, dh_t = saved.h[t, b], dh[b] + dy[t, b]
        # relu: a gradient of 0 at h = 0, and a NaN stays one, as in PyTorch
        da[t, b] = dh_t * (1 - h**2) if saved.nonlinearity == "tanh" else np.where(h <= 0, 0, dh_t)
        dh[b] = da[t, b] @ saved.w_hh

    gradients = common.projection_gradients(saved, scan.valid, da, da, h_prev)
    gradients |= {"dh0": lambda: dh}
    return RNNGrads(**common.collect(RNNGrads._fields, gradients, needs, out, accumulate))
