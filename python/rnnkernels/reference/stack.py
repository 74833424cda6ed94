"""Stacks, the definition: layers on top of each other, one or two directions, dropout in between.

As torch.nn.LSTM, GRU and RNN with num_layers, bidirectional and dropout.  The one subtlety: dropout, linear
once its mask is drawn, is its own backward, so only the key of the masks is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..types import Array, Lengths, Needs, StackForward, StackGrads, StackParams, StackSaved, State
from . import common
from .gru import gru_backward, gru_forward
from .lstm import lstm_backward, lstm_forward
from .philox import dropout_mask
from .rnn import rnn_backward, rnn_forward

_Cell = tuple[Callable[..., Any], Callable[..., Any], dict[str, Any], tuple[str, ...]]
_CELLS: dict[str, _Cell] = {  # forward, backward, options of forward, states
    "lstm": (lstm_forward, lstm_backward, {}, ("h0", "c0")),
    "gru": (gru_forward, gru_backward, {}, ("h0",)),
    "gru_reset_before": (gru_forward, gru_backward, {"reset_after": False}, ("h0",)),
    "rnn_tanh": (rnn_forward, rnn_backward, {"nonlinearity": "tanh"}, ("h0",)),
    "rnn_relu": (rnn_forward, rnn_backward, {"nonlinearity": "relu"}, ("h0",)),
}


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
        params[layer][direction] = (w_ih, w_hh, b_ih, b_hh), a bias may be None; direction 1 is reverse.
    hx
        (L*D, B, H), index layer * D + direction; the pair (h0, c0) of them for an LSTM; None means zeros.
    lengths
        (B) integers in [0, T], as in ``lstm_forward``.
    dropout
        Rate in [0, 1] at which outputs of every layer but the last are dropped; the kept ones are divided by
        1 - dropout.
    rng
        Generator from which, if dropout > 0, one 64-bit Philox key is drawn; or that key; or None for any.
    save
        False returns ``saved`` as None.

    Returns
    -------
    StackForward
        y (T, B, D*H); hx as the argument; saved, for ``stack_backward``.

    Raises
    ------
    ValueError
        For an unknown kind, a wrong shape, length, id, dropout or key.
    TypeError
        For what is no array, or of another dtype.
    """
    if kind not in _CELLS:
        raise ValueError(f"kind: expected one of {', '.join(_CELLS)}, got {kind!r}")
    forward, _, options, state_names = _CELLS[kind]
    D = _directions(params)
    states = _states("hx", hx, state_names, len(params) * D)
    key = _key(dropout, rng)
    final: list[list[Array]] = [[] for _ in state_names]
    layers = []
    for layer, directions in enumerate(params):
        ys, saves = [], []
        for d, cell_params in enumerate(directions):
            first = [None if s is None else s[layer * D + d] for s in states]
            y_d, *last, saved_d = forward(
                x, *cell_params, *first, lengths=lengths, reverse=d == 1, save=save, **options
            )
            ys.append(y_d)
            saves.append(saved_d)
            for collected, state in zip(final, last, strict=True):
                collected.append(state)
        layers.append(tuple(saves))
        y = np.concatenate(ys, axis=-1)
        x = _dropout(y, dropout, key, layer)  # for the next layer, if there is one
    saved = StackSaved(kind, params, tuple(layers), dropout, key, hx is not None) if save else None
    return StackForward(y, _join(final), saved)


def stack_backward(
    dy: Array | None, saved: StackSaved, dhx: State | None = None, *, needs: Needs | None = None
) -> StackGrads:
    """Gradients of ``stack_forward``.

    Parameters
    ----------
    dy
        (T, B, D*H), gradient with respect to y; None means zeros.
    saved
        From ``stack_forward``.
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
        For what is no array, of another dtype, or saved by another operation.
    """
    common.check_saved(saved, StackSaved)
    wanted = set(StackGrads._fields if needs is None else needs)
    common.refuse_unknown("needs", wanted, StackGrads._fields)
    _, backward, _, state_names = _CELLS[saved.kind]
    L, D = len(saved.layers), len(saved.layers[0])
    T, B, H = saved.layers[0][0].h.shape
    if dy is not None:
        common.check("dy", dy, "(T, B, D*H)", (T, B, D * H), saved.layers[0][0].h.dtype)
    dstates = _states("dhx", dhx, state_names, L * D)
    cell_needs = set[str]()
    if "params" in wanted:
        cell_needs |= {"dw_ih", "dw_hh", "db_ih", "db_hh"}
    if "dhx" in wanted:
        cell_needs |= {f"d{name}" for name in state_names}

    dfirst: list[list[Array]] = [[None] * (L * D) for _ in state_names]  # type: ignore[list-item]
    dparams: list[tuple[tuple[Array | None, ...], ...]] = []
    for layer in reversed(range(L)):
        dx: Array | None = None
        of_layer = []
        for d, saved_d in enumerate(saved.layers[layer]):
            k = layer * D + d
            dy_d = None if dy is None else dy[..., d * H : (d + 1) * H]
            dlast = [None if s is None else s[k] for s in dstates]
            input_needs = {"dx"} if layer or "dx" in wanted else set()
            grads = backward(dy_d, saved_d, *dlast, needs=cell_needs | input_needs)
            of_layer.append((grads.dw_ih, grads.dw_hh, grads.db_ih, grads.db_hh))
            for name, collected in zip(state_names, dfirst, strict=True):
                collected[k] = getattr(grads, f"d{name}")
            dx = grads.dx if dx is None else dx + grads.dx
        dparams.insert(0, tuple(of_layer))
        if layer:
            assert dx is not None
            dy = _dropout(dx, saved.dropout, saved.key, layer - 1)
    return StackGrads(
        dx=dx,
        dhx=_join(dfirst) if "dhx" in wanted else None,
        params=tuple(dparams) if "params" in wanted else None,
    )


def _dropout(a: Array, p: float, key: int | None, layer: int) -> Array:
    """The output of a layer with dropout: of y in forward, of its gradient in backward."""
    if key is None:
        return a
    one = a.dtype.type(1)
    scale = one / (one - a.dtype.type(p)) if p < 1 else one  # of p = 1 nothing is kept
    return np.asarray(np.where(dropout_mask(key, layer, a.shape, p), a * scale, a.dtype.type(0)))


def _key(dropout: float, rng: np.random.Generator | int | None) -> int | None:
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a rate in [0, 1], got {dropout}")
    if dropout == 0:
        return None
    if rng is None:
        rng = np.random.default_rng()
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**64, dtype=np.uint64))
    if not 0 <= rng < 2**64:
        raise ValueError(f"rng: expected a key in [0, 2**64), got {rng}")
    return int(rng)


def _directions(params: StackParams) -> int:
    counts = {len(directions) for directions in params}
    if len(counts) != 1 or not counts <= {1, 2}:
        raise ValueError(
            f"params: expected one or more layers of 1 or 2 directions each, got {[len(p) for p in params]}"
        )
    return counts.pop()


def _states(name: str, hx: State | None, names: tuple[str, ...], LD: int) -> tuple[Array | None, ...]:
    """hx, or its gradient, as a tuple with one array (L*D, B, H), or None, for each state of the cell."""
    if hx is None:
        return (None,) * len(names)
    states = hx if isinstance(hx, tuple | list) else (hx,)
    if len(states) != len(names):
        raise ValueError(
            f"{name}: expected {len(names)} array(s), for {' and '.join(names)}, got {len(states)}"
        )
    for state in states:
        if state is not None and (not isinstance(state, np.ndarray) or state.ndim != 3 or len(state) != LD):
            got = state.shape if isinstance(state, np.ndarray) else type(state).__name__
            raise ValueError(f"{name}: expected (L*D, B, H) with L*D = {LD}, got {got}")
    return tuple(states)


def _join(states: list[list[Array]]) -> State:
    """[state][layer * D + direction] (B, H) -> h, or (h, c), each (L*D, B, H)."""
    h, *c = (np.stack(s) for s in states)
    return (h, c[0]) if c else h
