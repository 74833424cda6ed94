"""Initialisers: each fills an array in place from a NumPy generator and returns it.

Numbers are drawn in float64 and rounded, so a float32 and a float64 array get the same ones.  ``gates``
divides the rows of a recurrent weight (4 for an LSTM, 3 for a GRU) into blocks that are initialised each on
its own.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def uniform(a: Array, rng: np.random.Generator, hidden_size: int) -> Array:
    """U(-1/sqrt(H), 1/sqrt(H)): the default of torch.nn.LSTM, GRU and RNN for weights and biases.

    Parameters
    ----------
    a
        Floating-point array of any shape, filled in place.
    rng
        Source of the numbers.
    hidden_size
        H.
    """
    bound = 1 / math.sqrt(hidden_size) if hidden_size else 0.0
    a[...] = rng.uniform(-bound, bound, a.shape)
    return a


def xavier_uniform(w: Array, rng: np.random.Generator, *, gain: float = 1.0, gates: int = 1) -> Array:
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out) (Glorot & Bengio 2010).

    Parameters
    ----------
    w
        (rows, columns), filled in place; fan_in is columns and fan_out rows / gates.
    rng
        Source of the numbers.
    gain
        Factor on the standard deviation.
    gates
        Blocks of rows; 1 is PyTorch's view of a weight.

    Raises
    ------
    ValueError
        For an array that is no matrix or does not divide into gates.
    """
    return _uniform(w, rng, gain * math.sqrt(2 / max(1, sum(_block(w, gates)))))


def xavier_normal(w: Array, rng: np.random.Generator, *, gain: float = 1.0, gates: int = 1) -> Array:
    """Normal with variance gain^2 * 2 / (fan_in + fan_out); otherwise as ``xavier_uniform``."""
    w[...] = rng.normal(0, gain * math.sqrt(2 / max(1, sum(_block(w, gates)))), w.shape)
    return w


def he_uniform(w: Array, rng: np.random.Generator, *, gain: float = math.sqrt(2)) -> Array:
    """Uniform with variance gain^2 / fan_in, by default for ReLU (He et al. 2015); fan_in is the columns."""
    return _uniform(w, rng, gain / math.sqrt(max(1, _block(w, 1)[1])))


def he_normal(w: Array, rng: np.random.Generator, *, gain: float = math.sqrt(2)) -> Array:
    """Normal with variance gain^2 / fan_in, by default for ReLU (He et al. 2015); fan_in is the columns."""
    w[...] = rng.normal(0, gain / math.sqrt(max(1, _block(w, 1)[1])), w.shape)
    return w


def orthogonal(w: Array, rng: np.random.Generator, *, gain: float = 1.0, gates: int = 1) -> Array:
    """Random matrices with orthogonal rows or columns, whichever are fewer (Saxe, McClelland & Ganguli 2014).

    Parameters
    ----------
    w
        (rows, columns), filled in place.
    rng
        Source of the numbers.
    gain
        Factor on the matrix, and so its singular values.
    gates
        Blocks of rows, each orthogonal on its own; 1 is PyTorch's and Keras's view of a weight.

    Raises
    ------
    ValueError
        For an array that is no matrix or does not divide into gates.
    """
    rows, columns = _block(w, gates)
    for gate in range(gates):
        normal = rng.normal(size=(max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q *= np.where(np.diagonal(r) < 0, -1, 1)  # makes the distribution uniform
        w[gate * rows : (gate + 1) * rows] = gain * (q if rows >= columns else q.T)
    return w


def identity(w: Array, *, gain: float = 1.0) -> Array:
    """``gain`` times the identity, for w_hh of a ReLU RNN with zero biases (IRNN; Le, Jaitly & Hinton 2015).

    Raises
    ------
    ValueError
        For an array that is no matrix.
    """
    w[...] = gain * np.eye(*_block(w, 1))
    return w


def forget_gate_bias(b: Array, value: float = 1.0) -> Array:
    """Set the forget gate's part of an LSTM bias (Gers et al. 2000; Jozefowicz et al. 2015).

    Set it in b_ih alone, or in b_hh alone: the two are added.

    Parameters
    ----------
    b
        (4*H) or (B, 4*H), order i, f, g, o; the other gates are left alone.

    Raises
    ------
    ValueError
        For a last dimension that does not divide into four gates.
    """
    if b.ndim == 0 or b.shape[-1] % 4:
        raise ValueError(f"b: expected (4*H) or (B, 4*H), got {b.shape}")
    H = b.shape[-1] // 4
    b[..., H : 2 * H] = value
    return b


def _uniform(w: Array, rng: np.random.Generator, deviation: float) -> Array:
    bound = math.sqrt(3) * deviation
    w[...] = rng.uniform(-bound, bound, w.shape)
    return w


def _block(w: Array, gates: int) -> tuple[int, int]:
    """Rows (fan_out) and columns (fan_in) of one gate."""
    if gates < 1 or w.ndim != 2 or len(w) % gates:
        raise ValueError(f"w: expected a matrix whose rows divide into {gates} gates, got {w.shape}")
    return len(w) // gates, w.shape[1]
