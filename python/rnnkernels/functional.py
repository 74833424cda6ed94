"""Level 0 and the stack: the kernels under the names, signatures and results of ``rnnkernels.reference``.

Thin on purpose: the extension checks every argument, allocates the results and runs the kernel; here stand
signatures, documentation and the tuples.  Arrays are NumPy's, or those of a GPU in all arguments of a call
(``rnnkernels.cuda``); values of the latter are not looked at, so that an id or a target out of range makes
NaN of its step or row instead of an error.  The one subtlety: level 0 is the stack of one layer, one
direction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np

from . import _core, cuda
from .options import execution
from .types import (
    Array,
    CellParams,
    CrossEntropyForward,
    CrossEntropyGrads,
    CrossEntropySaved,
    GRUForward,
    GRUGrads,
    GRUSaved,
    Lengths,
    LinearCrossEntropyGrads,
    LinearCrossEntropySaved,
    LinearForward,
    LinearGrads,
    LinearSaved,
    LSTMForward,
    LSTMGrads,
    LSTMSaved,
    Needs,
    Out,
    RNNForward,
    RNNGrads,
    RNNSaved,
    StackForward,
    StackGrads,
    StackParams,
    StackSaved,
    State,
)

_GRU_KINDS = {True: "gru", False: "gru_reset_before"}  # reset_after -> kind
_RNN_KINDS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}  # nonlinearity -> kind
_Saved: TypeAlias = LSTMSaved | GRUSaved | RNNSaved


# -- one layer, one direction ------------------------------------------------------------------------------


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
    c' = f c + i g;  h' = o tanh(c').  Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber
    & Cummins 2000, two biases as in cuDNN and torch.nn.LSTM.

    Parameters
    ----------
    x
        (T, B, I) of floats, or token ids (T, B) of int32 or int64 in [0, I): the columns of w_ih they name
        are gathered.  All floating-point arguments share one dtype: float32, float64, float16, or bfloat16,
        a dtype of that name such as ml_dtypes has.  Any strides and alignment.
    w_ih, w_hh
        (4*H, I) and (4*H, H), rows in the order i, f, g, o.  With ids, a transposed table ``table.T``, whose
        columns lie side by side in memory, is the fast layout of w_ih.
    b_ih, b_hh
        (4*H) or None; b_ih may be (B, 4*H), a bias per sequence.
    h0, c0
        (B, H), or None for zeros; c0 is float32 where the others have 16 bits, and so are c_n and saved.c.
    lengths
        (B) integers in [0, T]: step t >= lengths[b] of sequence b is padding, never read and 0 in y.
    reverse
        Run each sequence from its last step to its first; y[t] stands beside x[t] all the same.
    save
        False returns ``saved`` as None.
    out
        Arrays for y, h_n, c_n by name, or an earlier result; what is missing is allocated.  Writeable, of any
        strides, and sharing no memory with each other or an input.

    Returns
    -------
    LSTMForward
        y (T, B, H); h_n, c_n (B, H), the state after each sequence's last step; saved, for ``lstm_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, length or id, or an array of ``out`` that cannot be written to.
    TypeError
        For what is no NumPy array (or a masked one), or of another dtype or byte order.
    """
    return LSTMForward(
        *_forward("lstm", LSTMForward, x, (w_ih, w_hh, b_ih, b_hh), h0, c0, lengths, reverse, save, out)
    )


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
        (T, B, H), (B, H), (B, H): gradients with respect to y, h_n and c_n, of their dtypes; None means
        zeros.  dy in padding is ignored.
    saved
        From ``lstm_forward``, of this module or the reference; the arrays it borrows must not have changed.
    needs
        Names of the gradients to compute (fields of LSTMGrads); None means all that apply.
    out
        Arrays for the gradients by name, or an earlier result; what is missing is allocated.  Writeable, of
        any strides, and sharing no memory with each other or an input.
    accumulate
        Add into the arrays of ``out`` instead of overwriting them.

    Returns
    -------
    LSTMGrads
        Each gradient has the shape and dtype of its argument; None if not in ``needs``, for an absent bias,
        for dx of ids, and for dw_hr and dpeephole.  With ids dw_ih is the transpose of a C-contiguous
        (I, 4*H) array.

    Raises
    ------
    ValueError
        For a wrong shape, an unknown name in ``needs`` or ``out``, or an array of ``out`` that cannot be
        written to.
    TypeError
        For what is no NumPy array (or a masked one), of another dtype, or saved by another operation.
    """
    _check_saved("saved", saved, LSTMSaved)
    return LSTMGrads(*_backward("lstm", LSTMGrads, dy, saved, dh_n, dc_n, needs, out, accumulate))


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
    Cho et al. 2014; ``reset_after=True`` is the form of cuDNN and torch.nn.GRU, False the paper's.

    Parameters
    ----------
    x
        (T, B, I) of floats, or token ids (T, B) of int32 or int64 in [0, I), as in ``lstm_forward``.
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
    ValueError, TypeError
        As ``lstm_forward``.
    """
    kind = _kind("reset_after", reset_after, _GRU_KINDS)
    weights = (w_ih, w_hh, b_ih, b_hh)
    y, h_n, _, saved = _forward(kind, GRUForward, x, weights, h0, None, lengths, reverse, save, out)
    return GRUForward(y, h_n, saved)


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
        From ``gru_forward``, of this module or the reference; the arrays it borrows must not have changed.
    needs, out, accumulate
        As in ``lstm_backward``.

    Returns
    -------
    GRUGrads
        Each gradient has the shape of its argument; None if not in ``needs``, for an absent bias, or for dx
        of ids.

    Raises
    ------
    ValueError, TypeError
        As ``lstm_backward``.
    """
    _check_saved("saved", saved, GRUSaved)
    kind = _kind("saved.reset_after", saved.reset_after, _GRU_KINDS)
    return GRUGrads(*_backward(kind, GRUGrads, dy, saved, dh_n, None, needs, out, accumulate)[:-1])


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
    """Run one vanilla RNN layer (Elman 1990): h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu.

    Parameters
    ----------
    x
        (T, B, I) of floats, or token ids (T, B) of int32 or int64 in [0, I), as in ``lstm_forward``.
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
    ValueError, TypeError
        As ``lstm_forward``, and ValueError for an unknown nonlinearity.
    """
    kind = _kind("nonlinearity", nonlinearity, _RNN_KINDS)
    weights = (w_ih, w_hh, b_ih, b_hh)
    y, h_n, _, saved = _forward(kind, RNNForward, x, weights, h0, None, lengths, reverse, save, out)
    return RNNForward(y, h_n, saved)


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
        From ``rnn_forward``, of this module or the reference; the arrays it borrows must not have changed.
    needs, out, accumulate
        As in ``lstm_backward``.

    Returns
    -------
    RNNGrads
        Each gradient has the shape of its argument; None if not in ``needs``, for an absent bias, or for dx
        of ids.

    Raises
    ------
    ValueError, TypeError
        As ``lstm_backward``.
    """
    _check_saved("saved", saved, RNNSaved)
    kind = _kind("saved.nonlinearity", saved.nonlinearity, _RNN_KINDS)
    return RNNGrads(*_backward(kind, RNNGrads, dy, saved, dh_n, None, needs, out, accumulate)[:-1])


# -- stacks ------------------------------------------------------------------------------------------------


def stack_forward(
    kind: str,
    x: Array,
    params: StackParams,
    hx: State | None = None,
    *,
    lengths: Lengths | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | int | None = None,
    save: bool = True,
) -> StackForward:
    """Run L layers of D = 1 or 2 directions; each layer reads the concatenated directions of the one below.

    Parameters
    ----------
    kind
        "lstm", "gru", "gru_reset_before", "rnn_tanh" or "rnn_relu".
    x
        (T, B, I), or token ids (T, B), for the first layer.
    params
        params[layer][direction] = (w_ih, w_hh, b_ih, b_hh), tuples or lists; a bias may be None; direction 1
        is reverse.  Shapes as in level 0, w_ih of later layers (G*H, D*H).
    hx
        (L*D, B, H), index layer * D + direction as in PyTorch; the pair (h0, c0) of them for an LSTM, c0
        float32 for 16-bit dtypes; None means zeros.
    lengths
        (B) integers in [0, T], as in ``lstm_forward``.
    dropout
        Rate in [0, 1] at which outputs of every layer but the last are dropped; the kept ones are divided by
        1 - dropout.
    rng
        Generator from which, if dropout > 0, one 64-bit Philox key is drawn; or that key; or None for any.
    save
        False returns ``saved`` as None, and keeps two layers' outputs at most.

    Returns
    -------
    StackForward
        y (T, B, D*H); hx as the argument; saved, for ``stack_backward``.

    Raises
    ------
    ValueError
        For an unknown kind, a wrong shape, length, id, dropout or key.
    TypeError
        For what is no NumPy array (or a masked one), or of another dtype or byte order.
    """
    key = _key(dropout, rng)
    h0, c0 = _states("hx", kind, hx)
    rate = 0.0 if key is None else float(dropout)
    module, how = _backend(x)
    y, h_n, c_n, steps, kept = module.forward(
        kind, False, x, params, h0, c0, lengths, False, rate, key or 0, save, None, how
    )
    last = h_n if c_n is None else (h_n, c_n)
    if kept is None:
        return StackForward(y, last, None)
    D = len(kept[0])
    layers = tuple(
        tuple(
            _saved(kind, of_cell[0], params[layer][d], _at(h0, k), _at(c0, k), steps, d == 1, of_cell[1:])
            for d, of_cell in enumerate(of_layer)
            for k in [layer * D + d]
        )
        for layer, of_layer in enumerate(kept)
    )
    return StackForward(y, last, StackSaved(kind, params, layers, dropout, key, hx is not None))


def stack_backward(
    dy: Array | None, saved: StackSaved, dhx: State | None = None, *, needs: Needs | None = None
) -> StackGrads:
    """Gradients of ``stack_forward``.

    Parameters
    ----------
    dy
        (T, B, D*H), gradient with respect to y; None means zeros.
    saved
        From ``stack_forward``, of this module or the reference.
    dhx
        Gradient with respect to the returned hx, of its structure; None means zeros.
    needs
        Subset of {"dx", "dhx", "params"}; None means all.

    Returns
    -------
    StackGrads
        dx like x, None for ids; dhx like hx; params[layer][direction] = (dw_ih, dw_hh, db_ih, db_hh).

    Raises
    ------
    ValueError
        For a wrong shape or an unknown name in ``needs``.
    TypeError
        For what is no NumPy array (or a masked one), of another dtype, or saved by another operation.
    """
    _check_saved("saved", saved, StackSaved)
    kind = saved.kind
    for layer, directions in enumerate(saved.layers):
        for d, of_cell in enumerate(directions):
            _check_kind(f"saved.layers[{layer}][{d}]", of_cell, kind)
    bits = _needs(needs, StackGrads._fields)
    wants_x, wants_h, wants_params = bits & 1, bits >> 1 & 1, bits >> 2 & 1
    key = None if saved.key is None else _key(saved.dropout, saved.key)
    rate = 0.0 if key is None else float(saved.dropout)
    cells = [cell for directions in saved.layers for cell in directions]
    module, how = _backend(cells[0].x if cells else None)
    dx, params, dh0, dc0 = module.backward(
        kind,
        False,
        dy,
        saved.layers,
        *_states("dhx", kind, dhx),
        rate,
        key or 0,
        wants_x | wants_params * 0b0011110 | wants_h * 0b1100000,
        None,
        False,
        how,
    )
    dfirst: Any = dh0 if dc0 is None else (dh0, dc0)
    return StackGrads(dx, dfirst if wants_h else None, params if wants_params else None)


def pack(kind: str, params: StackParams, weight_dtype: str | None = None) -> Packed:
    """Pack the weights of a stack once, for inference.

    Parameters
    ----------
    kind, params
        As in ``stack_forward``; a bias per sequence cannot be packed.
    weight_dtype
        None keeps the weights as they are.  "int8", for float32 weights, rounds each row of w_ih and w_hh to
        integers of at most 127 in magnitude with one float32 step; x and h are rounded alike, row by row, as
        they are multiplied.  Expect y within 3 % of its largest magnitude of what float32 gives
        (docs/accuracy.md); arguments and results stay float32.

    Returns
    -------
    Packed
        Holds copies: it survives any change of the weights.

    Raises
    ------
    ValueError
        As ``stack_forward``; for another weight_dtype or float64 weights with "int8", and for a matrix that
        int8 cannot hold: NaN or infinity in it, or more than 133144 columns.
    TypeError
        As ``stack_forward``.
    """
    return Packed(kind, params, weight_dtype)


class Packed:
    """The weights of a stack, packed once for the instruction set in use; immutable.  Made by ``pack``.

    Safe to use from several threads.  It runs on the instruction set it was packed for, whatever ``config``
    says.
    """

    __slots__ = ("_kind", "_packed")

    def __init__(self, kind: str, params: StackParams, weight_dtype: str | None = None) -> None:
        self._packed = _core.Packed(kind, params, weight_dtype, execution())
        self._kind = kind

    def __repr__(self) -> str:
        """What was packed."""
        facts = ", ".join(f"{name}={value!r}" for name, value in self._packed.description().items())
        return f"<Packed {facts}>"

    def forward(
        self, x: Array, hx: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Array, State]:
        """``stack_forward`` without saving; the same arguments, errors and (but with int8) bits.

        Returns
        -------
        y, hx
            y (T, B, D*H); hx (L*D, B, H), the pair (h, c) of them for an LSTM.
        """
        h0, c0 = _states("hx", self._kind, hx)
        y, h_n, c_n = self._packed.run(x, h0, c0, lengths, False, execution())
        return y, h_n if c_n is None else (h_n, c_n)

    def step(self, x_t: Array, hx: State | None = None) -> tuple[Array, State]:
        """One time step, for streaming; of a stack of one direction.

        Parameters
        ----------
        x_t
            (B, I), or token ids (B).
        hx
            The state that the last step returned; None at the start.

        Returns
        -------
        y_t, hx
            y_t (B, H); hx as in ``forward``.

        Raises
        ------
        ValueError
            For a wrong shape or id, or a pack of two directions, of which the second begins at the end.
        TypeError
            For what is no NumPy array (or a masked one), or of another dtype or byte order.
        """
        h0, c0 = _states("hx", self._kind, hx)
        y, h_n, c_n = self._packed.run(x_t, h0, c0, None, True, execution())
        return y, h_n if c_n is None else (h_n, c_n)


# -- heads -------------------------------------------------------------------------------------------------


def linear_forward(
    x: Array, w: Array, b: Array | None = None, *, save: bool = True, out: Out | None = None
) -> LinearForward:
    """y = x w' + b over the last dimension.

    Parameters
    ----------
    x, w, b
        (..., I), (O, I), (O) or None, of one dtype as in ``lstm_forward``.
    save
        False returns ``saved`` as None.
    out
        Array for y by name, or an earlier result, as in ``lstm_forward``.

    Returns
    -------
    LinearForward
        y (..., O) and saved, for ``linear_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, or an array of ``out`` that cannot be written to.
    TypeError
        For what is no NumPy array (or a masked one), or of another dtype or byte order.
    """
    module, how = _backend(x)
    y = module.linear_forward(x, w, b, _given(out, LinearForward), how)
    return LinearForward(y, LinearSaved(x, w, b is not None) if save else None)


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
    ValueError, TypeError
        As ``lstm_backward``.
    """
    _check_saved("saved", saved, LinearSaved)
    bits, given = _needs(needs, LinearGrads._fields), _given(out, LinearGrads)
    module, how = _backend(saved.x)
    return LinearGrads(*module.linear_backward(dy, saved, bits, given, accumulate, how))


def softmax_cross_entropy_forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, reduction: str = "mean"
) -> CrossEntropyForward:
    """Loss of a row: log(sum(exp(logits))) - logits[target], in nats; 0 where the target is ``ignore_index``.

    As torch.nn.functional.cross_entropy with class indices.  Losses are reduced in float64, in index order.

    Parameters
    ----------
    logits
        (..., V), of a dtype as in ``lstm_forward``.
    targets
        (...), int32 or int64 in [0, V), or ``ignore_index`` (which may itself lie in [0, V)).
    reduction
        "mean" over the targets that are not ignored (NaN if there are none), "sum", or "none".

    Returns
    -------
    CrossEntropyForward
        loss () or, for "none", (...), of the dtype of logits, but float32 where that has 16 bits; saved, for
        ``softmax_cross_entropy_backward``.

    Raises
    ------
    ValueError
        For a wrong shape, a target out of range or an unknown reduction.
    TypeError
        For what is no NumPy array (or a masked one), or of another dtype or byte order.
    """
    module, how = _backend(logits)
    loss, lse, count = module.cross_entropy_forward(logits, targets, ignore_index, reduction, how)
    return CrossEntropyForward(loss, CrossEntropySaved(logits, targets, ignore_index, reduction, lse, count))


def softmax_cross_entropy_backward(
    dloss: Array | float | None, saved: CrossEntropySaved
) -> CrossEntropyGrads:
    """Gradient of ``softmax_cross_entropy_forward``: dloss (softmax(logits) - onehot(target)), mean: / count.

    Parameters
    ----------
    dloss
        None for 1, a number, or an array of the shape and dtype of the loss.
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
    _check_saved("saved", saved, CrossEntropySaved)
    module, how = _backend(saved.logits)
    return CrossEntropyGrads(module.cross_entropy_backward(dloss, saved, how))


def linear_cross_entropy_forward(
    h: Array,
    w: Array,
    b: Array | None,
    targets: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> CrossEntropyForward:
    """``softmax_cross_entropy_forward`` of the logits h w' + b, of which only a block is held at a time.

    Parameters
    ----------
    h, w, b
        (..., H), (V, H), (V) or None, of one dtype as in ``lstm_forward``.
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
        For what is no NumPy array (or a masked one), or of another dtype or byte order.
    """
    module, how = _backend(h)
    loss, lse, count = module.linear_cross_entropy_forward(h, w, b, targets, ignore_index, reduction, how)
    saved = LinearCrossEntropySaved(h, w, b, targets, ignore_index, reduction, lse, count)
    return CrossEntropyForward(loss, saved)


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
    ValueError, TypeError
        As ``lstm_backward``.
    """
    _check_saved("saved", saved, LinearCrossEntropySaved)
    bits, given = _needs(needs, LinearCrossEntropyGrads._fields), _given(out, LinearCrossEntropyGrads)
    module, how = _backend(saved.h)
    grads = module.linear_cross_entropy_backward(dloss, saved, bits, given, accumulate, how)
    return LinearCrossEntropyGrads(*grads)


# -- what they share ---------------------------------------------------------------------------------------


def _backend(x: Any) -> tuple[Any, Any]:
    """The extension module for a call whose first array is x, and how it runs."""
    return (_core, execution()) if isinstance(x, np.ndarray) else cuda.backend(x)


def _forward(
    kind: str,
    result: type[Any],
    x: Array,
    weights: CellParams,
    h0: Array | None,
    c0: Array | None,
    lengths: Lengths | None,
    reverse: bool,
    save: bool,
    out: Out | None,
) -> tuple[Any, Any, Any, Any]:
    """Level 0: (y, h_n, c_n, saved)."""
    given = _given(out, result)
    module, how = _backend(x)
    y, h_n, c_n, steps, kept = module.forward(
        kind, True, x, ((weights,),), h0, c0, lengths, reverse, 0.0, 0, save, given, how
    )
    if kept is None:
        return y, h_n, c_n, None
    return y, h_n, c_n, _saved(kind, x, weights, h0, c0, steps, bool(reverse), kept[0][0][1:])


def _saved(
    kind: str,
    x: Array,
    weights: CellParams,
    h0: Array | None,
    c0: Array | None,
    lengths: Any,
    reverse: bool,
    kept: tuple[Any, Any, Any],
) -> Any:
    """The dataclass of one layer and direction."""
    gates, c, h = kept
    if kind == "lstm":
        return LSTMSaved(x, *weights, h0, c0, lengths, reverse, gates, c, h)
    if kind in ("gru", "gru_reset_before"):
        return GRUSaved(x, *weights, h0, lengths, reverse, kind == "gru", gates, h)
    return RNNSaved(x, *weights, h0, lengths, reverse, kind.removeprefix("rnn_"), h)


def _backward(
    kind: str,
    result: type[Any],
    dy: Array | None,
    saved: _Saved,
    dh_n: Array | None,
    dc_n: Array | None,
    needs: Needs | None,
    out: Out | None,
    accumulate: bool,
) -> tuple[Any, ...]:
    """Level 0: (dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0)."""
    bits, given = _needs(needs, result._fields), _given(out, result)
    module, how = _backend(saved.x)
    dx, ((weights,),), dh0, dc0 = module.backward(
        kind, True, dy, saved, dh_n, dc_n, 0.0, 0, bits, given, accumulate, how
    )
    return dx, *weights, dh0, dc0


def _kind(name: str, value: Any, kinds: Mapping[Any, str]) -> str:
    """The kind of cell that an option selects."""
    try:
        return kinds[value]
    except (KeyError, TypeError):
        expected = " or ".join(map(repr, kinds))
        raise ValueError(f"{name}: expected {expected}, got {value!r}") from None


def _check_saved(name: str, saved: Any, expected: type[Any]) -> None:
    if not isinstance(saved, expected):
        raise TypeError(f"{name}: expected {expected.__name__}, got {type(saved).__name__}")


def _check_kind(name: str, saved: Any, kind: str) -> None:
    """Raise unless a layer of a stack was saved by a cell of this kind."""
    if kind == "lstm":
        _check_saved(name, saved, LSTMSaved)
        return
    if kind in _GRU_KINDS.values():
        _check_saved(name, saved, GRUSaved)
        got = _kind(f"{name}.reset_after", saved.reset_after, _GRU_KINDS)
    else:
        _check_saved(name, saved, RNNSaved)
        got = _kind(f"{name}.nonlinearity", saved.nonlinearity, _RNN_KINDS)
    if got != kind:
        raise ValueError(f"{name}: expected the cell {kind}, got {got}")


def _needs(needs: Needs | None, fields: tuple[str, ...]) -> int:
    """The set as bits in the order of the fields; all of them for None."""
    if needs is None:
        return -1
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise TypeError(f"needs: expected a set of names, got {type(needs).__name__}")
    _refuse_unknown("needs", needs, fields)
    return sum(1 << fields.index(name) for name in set(needs))


def _given(out: Out | None, result: type[Any]) -> tuple[Any, ...] | None:
    """What the caller wants filled, in the order of the fields."""
    if out is None or isinstance(out, result):
        return out
    if not isinstance(out, Mapping):
        raise TypeError(f"out: expected a mapping or {result.__name__}, got {type(out).__name__}")
    _refuse_unknown("out", out, result._fields)
    return tuple(map(out.get, result._fields))


def _refuse_unknown(argument: str, names: Collection[str], fields: tuple[str, ...]) -> None:
    for name in names:
        if name not in fields:
            raise ValueError(f"{argument}: expected names among {', '.join(fields)}, got {name!r}")


def _states(name: str, kind: str, hx: Any) -> tuple[Any, Any]:
    """hx, or its gradient, as (h, c); c is None but for an LSTM."""
    if not isinstance(kind, str) or kind != "lstm":
        return hx, None
    if hx is None:
        return None, None
    if not isinstance(hx, tuple | list):
        raise TypeError(f"{name}: expected a pair (h, c), got {type(hx).__name__}")
    if len(hx) != 2:
        raise ValueError(f"{name}: expected a pair (h, c), got {len(hx)} items")
    return hx[0], hx[1]


def _at(states: Array | None, index: int) -> Array | None:
    return None if states is None else states[index]


def _key(dropout: Any, rng: Any) -> int | None:
    """The Philox key of the dropout masks, None without dropout."""
    if isinstance(dropout, bool) or not isinstance(dropout, float | int | np.floating | np.integer):
        raise TypeError(f"dropout: expected a number, got {type(dropout).__name__}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a rate in [0, 1], got {dropout}")
    if dropout == 0:
        return None
    if rng is None:
        rng = np.random.default_rng()
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**64, dtype=np.uint64))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer):
        raise TypeError(f"rng: expected a NumPy Generator or an integer key, got {type(rng).__name__}")
    if not 0 <= rng < 2**64:
        raise ValueError(f"rng: expected a key in [0, 2**64), got {rng}")
    return int(rng)
