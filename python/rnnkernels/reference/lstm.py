"""LSTM, the definition: one layer, one direction, forward and back-propagation through time.

Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000, two biases as in cuDNN
and torch.nn.LSTM.  Gates i, f, g, o.  Twin of csrc/core/cells/lstm.h, in the same letters.
"""

from __future__ import annotations

import numpy as np

from ..types import Array, Lengths, LSTMForward, LSTMGrads, LSTMSaved, Needs, Out
from . import common
from .common import sigmoid


def lstm_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
    save: bool = True,
    out: Out | None = None,
) -> LSTMForward:
    """Run one LSTM layer over a batch of sequences.

    a = W_ih x + b_ih + W_hh h + b_hh, split into four;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);
    c' = f c + i g;  h' = o tanh(c').

    Parameters
    ----------
    x
        (T, B, I) floats, or token ids (T, B) of int32 or int64 in [0, I): the columns of w_ih they name are
        gathered.  All floating-point arguments share one dtype.
    w_ih, w_hh
        (4*H, I) and (4*H, H), rows in the order i, f, g, o.
    b_ih, b_hh
        (4*H) or None; b_ih may be (B, 4*H), a bias per sequence.
    h0, c0
        (B, H), or None for zeros.
    lengths
        (B) integers in [0, T]: step t >= lengths[b] of sequence b is padding, never read and 0 in y.
    reverse
        Run each sequence from its last step to its first; y[t] stands beside x[t] all the same.
    save
        False returns ``saved`` as None.
    out
        Arrays for y, h_n, c_n by name, or an earlier result; what is missing is allocated.

    Returns
    -------
    LSTMForward
        y (T, B, H); h_n, c_n (B, H), the state after each sequence's last step; saved, for ``lstm_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, length or id.
    TypeError
        For what is no array, or of another dtype.
    """
    T, B, H = common.check_layer(4, x, w_ih, w_hh, b_ih, b_hh, h0=h0, c0=c0)
    length = common.check_lengths(lengths, T, B)
    scan = common.Scan(T, B, length, reverse)
    common.check_ids(x, w_ih, scan.valid)
    xg = common.project(x, w_ih, b_ih, scan.valid)  # (T, B, 4*H)
    b_h = 0 if b_hh is None else b_hh
    h = common.copy_or_zeros("h0", h0, "(B, H)", (B, H), w_ih.dtype)
    c = common.copy_or_zeros("c0", c0, "(B, H)", (B, H), w_ih.dtype)
    gates = np.zeros((T, B, 4 * H), w_ih.dtype)
    cs, hs = np.zeros((2, T, B, H), w_ih.dtype)

    for t, b in scan.steps:
        i, f, g, o = np.split(xg[t, b] + h[b] @ w_hh.T + b_h, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c[b] = f * c[b] + i * g
        h[b] = o * np.tanh(c[b])
        gates[t, b], cs[t, b], hs[t, b] = np.concatenate([i, f, g, o], axis=-1), c[b], h[b]

    saved = LSTMSaved(x, w_ih, w_hh, b_ih, b_hh, h0, c0, length, reverse, gates, cs, hs) if save else None
    results = common.deliver(LSTMForward._fields, {"y": hs.copy(), "h_n": h, "c_n": c}, out)
    return LSTMForward(**results, saved=saved)


def lstm_backward(
    dy: Array | None,
    saved: LSTMSaved,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    needs: Needs | None = None,
    out: Out | None = None,
    accumulate: bool = False,
) -> LSTMGrads:
    """Gradients of ``lstm_forward`` by back-propagation through time.

    Parameters
    ----------
    dy, dh_n, dc_n
        (T, B, H), (B, H), (B, H): gradients with respect to y, h_n and c_n; None means zeros.  dy in padding
        is ignored.
    saved
        From ``lstm_forward``; the arrays it borrows must not have changed.
    needs
        Names of the gradients to compute (fields of LSTMGrads); None means all that apply.
    out
        Arrays for the gradients by name, or an earlier result; what is missing is allocated.
    accumulate
        Add into the arrays of ``out`` instead of overwriting them.

    Returns
    -------
    LSTMGrads
        Each gradient has the shape of its argument; None if not in ``needs``, for an absent bias, for dx of
        ids, and for dw_hr and dpeephole.

    Raises
    ------
    ValueError
        For a wrong shape or an unknown name in ``needs`` or ``out``.
    TypeError
        For what is no array, of another dtype, or saved by another operation.
    """
    common.check_saved(saved, LSTMSaved)
    (T, B, H), dtype = saved.h.shape, saved.h.dtype
    dy = common.copy_or_zeros("dy", dy, "(T, B, H)", (T, B, H), dtype)
    dh = common.copy_or_zeros("dh_n", dh_n, "(B, H)", (B, H), dtype)
    dc = common.copy_or_zeros("dc_n", dc_n, "(B, H)", (B, H), dtype)
    scan = common.Scan(T, B, saved.lengths, saved.reverse)
    h_prev = scan.previous(saved.h, saved.h0)
    c_prev = scan.previous(saved.c, saved.c0)
    da = np.zeros((T, B, 4 * H), dtype)  # of the pre-activations, so both dxg and dhg

    for t, b in reversed(scan.steps):
        i, f, g, o = np.split(saved.gates[t, b], 4, axis=-1)
        tanh_c = np.tanh(saved.c[t, b])
        dh_t = dh[b] + dy[t, b]
        dc_t = dc[b] + dh_t * o * (1 - tanh_c**2)
        da_i = dc_t * g * i * (1 - i)
        da_f = dc_t * c_prev[t, b] * f * (1 - f)
        da_g = dc_t * i * (1 - g**2)
        da_o = dh_t * tanh_c * o * (1 - o)
        da[t, b] = np.concatenate([da_i, da_f, da_g, da_o], axis=-1)
        dh[b] = da[t, b] @ saved.w_hh
        dc[b] = dc_t * f

    gradients = common.projection_gradients(saved, scan.valid, da, da, h_prev)
    gradients |= {"dh0": lambda: dh, "dc0": lambda: dc}
    return LSTMGrads(**common.collect(LSTMGrads._fields, gradients, needs, out, accumulate))
