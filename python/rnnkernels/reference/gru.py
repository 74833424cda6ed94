"""GRU, the definition, in both forms: one layer, one direction, forward and back-propagation through time.

Cho et al. 2014.  ``reset_after=True`` is cuDNN's and torch.nn.GRU's form, the gate r acting on W_hn h + b_hn;
``reset_after=False`` is the paper's, acting on h itself.  Gates r, z, n.  Twin of csrc/core/cells/gru.h.
"""

from __future__ import annotations

import numpy as np

from ..types import Array, GRUForward, GRUGrads, GRUSaved, Lengths, Needs, Out
from . import common
from .common import sigmoid


def gru_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    *,
    reset_after: bool = True,
    lengths: Lengths | None = None,
    reverse: bool = False,
    save: bool = True,
    out: Out | None = None,
) -> GRUForward:
    """Run one GRU layer over a batch of sequences.

    r, z = sigmoid(W_ir x + b_ir + W_hr h + b_hr), the same with z;  h' = (1 - z) n + z h, where
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)) or, reset before, tanh(W_in x + b_in + W_hn (r h) + b_hn).

    Parameters
    ----------
    x
        (T, B, I) floats, or token ids (T, B) of int32 or int64 in [0, I): the columns of w_ih they name are
        gathered.  All floating-point arguments share one dtype.
    w_ih, w_hh
        (3*H, I) and (3*H, H), rows in the order r, z, n.
    b_ih, b_hh
        (3*H) or None; b_ih may be (B, 3*H), a bias per sequence.
    h0
        (B, H), or None for zeros.
    reset_after
        Which of the two forms to run.
    lengths, reverse, save, out
        As in ``lstm_forward``; out takes y and h_n.

    Returns
    -------
    GRUForward
        y (T, B, H); h_n (B, H), the state after each sequence's last step; saved, for ``gru_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, length or id.
    TypeError
        For what is no array, or of another dtype.
    """
    T, B, H = common.check_layer(3, x, w_ih, w_hh, b_ih, b_hh, h0=h0)
    length = common.check_lengths(lengths, T, B)
    scan = common.Scan(T, B, length, reverse)
    common.check_ids(x, w_ih, scan.valid)
    xg = common.project(x, w_ih, b_ih, scan.valid)  # (T, B, 3*H)
    w_hr, w_hz, w_hn = np.split(w_hh, 3)
    b_hr, b_hz, b_hn = (0, 0, 0) if b_hh is None else np.split(b_hh, 3)
    h = common.copy_or_zeros("h0", h0, "(B, H)", (B, H), w_ih.dtype)
    gates = np.zeros((T, B, (4 if reset_after else 3) * H), w_ih.dtype)
    hs = np.zeros((T, B, H), w_ih.dtype)

    for t, b in scan.steps:
        xr, xz, xn = np.split(xg[t, b], 3, axis=-1)
        r = sigmoid(xr + h[b] @ w_hr.T + b_hr)
        z = sigmoid(xz + h[b] @ w_hz.T + b_hz)
        if reset_after:
            hn = h[b] @ w_hn.T + b_hn
            n = np.tanh(xn + r * hn)
        else:
            n = np.tanh(xn + (r * h[b]) @ w_hn.T + b_hn)
        h[b] = (1 - z) * n + z * h[b]
        gates[t, b] = np.concatenate([r, z, n, hn] if reset_after else [r, z, n], axis=-1)
        hs[t, b] = h[b]

    kept = GRUSaved(x, w_ih, w_hh, b_ih, b_hh, h0, length, reverse, reset_after, gates, hs)
    results = common.deliver(GRUForward._fields, {"y": hs.copy(), "h_n": h}, out)
    return GRUForward(**results, saved=kept if save else None)


def gru_backward(
    dy: Array | None,
    saved: GRUSaved,
    dh_n: Array | None = None,
    *,
    needs: Needs | None = None,
    out: Out | None = None,
    accumulate: bool = False,
) -> GRUGrads:
    """Gradients of ``gru_forward`` by back-propagation through time.

    Parameters
    ----------
    dy, dh_n
        (T, B, H), (B, H): gradients with respect to y and h_n; None means zeros.  dy in padding is ignored.
    saved
        From ``gru_forward``; the arrays it borrows must not have changed.
    needs, out, accumulate
        As in ``lstm_backward``.

    Returns
    -------
    GRUGrads
        Each gradient has the shape of its argument; None if not in ``needs``, for an absent bias, dx of ids.

    Raises
    ------
    ValueError
        For a wrong shape or an unknown name in ``needs`` or ``out``.
    TypeError
        For what is no array, of another dtype, or saved by another operation.
    """
    common.check_saved(saved, GRUSaved)
    (T, B, H), dtype = saved.h.shape, saved.h.dtype
    dy = common.copy_or_zeros("dy", dy, "(T, B, H)", (T, B, H), dtype)
    dh = common.copy_or_zeros("dh_n", dh_n, "(B, H)", (B, H), dtype)
    scan = common.Scan(T, B, saved.lengths, saved.reverse)
    h_prev = scan.previous(saved.h, saved.h0)
    w_hr, w_hz, w_hn = np.split(saved.w_hh, 3)
    dxg, dhg = np.zeros((2, T, B, 3 * H), dtype)  # of the pre-activations; only their n may differ

    for t, b in reversed(scan.steps):
        r, z, n, *hn = np.split(saved.gates[t, b], 4 if saved.reset_after else 3, axis=-1)
        h, dh_t = h_prev[t, b], dh[b] + dy[t, b]
        da_z = dh_t * (h - n) * z * (1 - z)
        da_n = dh_t * (1 - z) * (1 - n**2)
        if saved.reset_after:
            da_hn = da_n * r
            da_r = da_n * hn[0] * r * (1 - r)
            dh[b] = dh_t * z + da_hn @ w_hn
        else:
            da_hn = da_n
            drh = da_n @ w_hn  # of r * h
            da_r = drh * h * r * (1 - r)
            dh[b] = dh_t * z + drh * r
        dh[b] += da_r @ w_hr + da_z @ w_hz
        dxg[t, b] = np.concatenate([da_r, da_z, da_n], axis=-1)
        dhg[t, b] = np.concatenate([da_r, da_z, da_hn], axis=-1)

    def dw_hh_reset_before() -> Array:
        da, h, r = dhg[scan.valid], h_prev[scan.valid], saved.gates[scan.valid][:, :H]
        return np.concatenate([da[:, : 2 * H].T @ h, da[:, 2 * H :].T @ (r * h)])

    gradients = common.projection_gradients(saved, scan.valid, dxg, dhg, h_prev)
    gradients |= {"dh0": lambda: dh}
    if not saved.reset_after:
        gradients["dw_hh"] = dw_hh_reset_before
    return GRUGrads(**common.collect(GRUGrads._fields, gradients, needs, out, accumulate))
