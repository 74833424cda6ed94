"""What the cells share: the order of the scan, the two projections and their gradients, results, arguments.

A cell's own file holds only its equations.  The one subtlety is Scan: it names, step by step, the sequences
still running and the time at which each stands, so that padding and direction exist nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Array, GRUSaved, Lengths, LSTMSaved, Needs, Out, RNNSaved

Thunk = Callable[[], Array | None]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow, accurate in both tails."""
    e = np.exp(-np.abs(x))  # in [0, 1]
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


class Scan:
    """The order in which a layer walks through B ragged sequences.

    Attributes
    ----------
    steps
        For each step the pair (t, b): b the indices of the n sequences that still run, t the time at which
        each of them stands (its own last step first under ``reverse``).  ``a[t, b]`` is (n, ...).
    valid
        (T, B), False in padding.
    """

    def __init__(self, T: int, B: int, lengths: npt.NDArray[np.int64] | None, reverse: bool) -> None:
        length = np.full(B, T) if lengths is None else lengths
        self.valid = np.arange(T)[:, None] < length
        self.steps: list[tuple[Array, Array]] = []
        for step in range(T):
            b = np.flatnonzero(step < length)
            t = length[b] - 1 - step if reverse else np.full(len(b), step)
            self.steps.append((t, b))

    def previous(self, state: Array, first: Array | None) -> Array:
        """(T, B, H): the state from which each step started, ``first`` (or zeros) for the first."""
        last = np.zeros(state.shape[1:], state.dtype) if first is None else first.copy()
        result = np.zeros(state.shape, state.dtype)
        for t, b in self.steps:
            result[t, b] = last[b]
            last[b] = state[t, b]
        return result


def project(x: Array, w_ih: Array, b_ih: Array | None, valid: Array) -> Array:
    """xg = x @ w_ih.T + b_ih (T, B, G*H); for ids (T, B) columns of w_ih.  Padding stays unread."""
    xg = np.zeros((*valid.shape, len(w_ih)), w_ih.dtype)
    xg[valid] = w_ih.T[x[valid]] if x.ndim == 2 else x[valid] @ w_ih.T
    return xg if b_ih is None else xg + b_ih


def projection_gradients(
    saved: LSTMSaved | GRUSaved | RNNSaved, valid: Array, dxg: Array, dhg: Array, h_prev: Array
) -> dict[str, Thunk]:
    """Gradients of xg = x @ w_ih.T + b_ih and hg = h_prev @ w_hh.T + b_hh, each computed only when called.

    dxg, dhg (T, B, G*H) are 0 in padding; h_prev (T, B, H).
    """
    x, w_ih, b_ih, is_ids = saved.x, saved.w_ih, saved.b_ih, saved.x.ndim == 2

    def dx() -> Array | None:
        if is_ids:
            return None
        result = np.zeros(x.shape, x.dtype)
        result[valid] = dxg[valid] @ w_ih
        return result

    def dw_ih() -> Array:
        if not is_ids:
            return dxg[valid].T @ x[valid]
        result = np.zeros(w_ih.shape, w_ih.dtype)
        np.add.at(result.T, x[valid], dxg[valid])
        return result

    return {
        "dx": dx,
        "dw_ih": dw_ih,
        "dw_hh": lambda: dhg[valid].T @ h_prev[valid],
        "db_ih": lambda: None if b_ih is None else dxg.sum(axis=0 if b_ih.ndim == 2 else (0, 1)),
        "db_hh": lambda: None if saved.b_hh is None else dhg.sum(axis=(0, 1)),
    }


# -- results: needs, out, accumulate -----------------------------------------------------------------------


def collect(
    fields: tuple[str, ...],
    gradients: Mapping[str, Thunk],
    needs: Needs | None,
    out: Out | None,
    accumulate: bool,
) -> dict[str, Array | None]:
    """Compute the gradients named in ``needs`` and put them where ``out`` says; the others are absent."""
    wanted = set(fields if needs is None else needs)
    refuse_unknown("needs", wanted, fields)
    computed = {name: compute() for name, compute in gradients.items() if name in wanted}
    values = {name: value for name, value in computed.items() if value is not None}
    return dict(deliver(fields, values, out, accumulate))


def deliver(
    fields: tuple[str, ...], values: Mapping[str, Array], out: Out | None, accumulate: bool = False
) -> dict[str, Array]:
    """Each value itself, or the array of ``out`` that now holds it (or, accumulating, holds the sum)."""
    given: dict[str, Any] = {}
    if isinstance(out, Mapping):
        given = dict(out)
    elif out is not None:
        given = dict(out._asdict()) if hasattr(out, "_asdict") else {}
        if not given:
            raise TypeError(f"out: expected a mapping or a result tuple, got {type(out).__name__}")
    refuse_unknown("out", given, fields)
    results = {}
    for name, value in values.items():
        target = given.get(name)
        if target is not None:
            check(f"out[{name!r}]", target, "the result's shape", value.shape, value.dtype)
            if not target.flags.writeable:
                raise ValueError(f"out[{name!r}]: expected a writeable array, got a read-only one")
            target[...] = target + value if accumulate else value
        results[name] = value if target is None else target
    return results


def refuse_unknown(argument: str, names: Iterable[str], fields: tuple[str, ...]) -> None:
    """Raise ValueError for a name that is no field of the result."""
    for name in names:
        if name not in fields:
            raise ValueError(f"{argument}: expected names among {', '.join(fields)}, got {name!r}")


# -- arguments ---------------------------------------------------------------------------------------------


def check(name: str, a: Any, dims: str, shape: tuple[int, ...], dtype: Any, like: str = "x") -> None:
    """Raise TypeError unless ``a`` is an array of that dtype, ValueError unless it has that shape."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like {like}, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name}: expected {dims} = {shape}, got {a.shape}")


def check_float(name: str, a: Any, dims: str, ndim: int) -> None:
    """Raise unless ``a`` is a native floating-point array of ``ndim`` dimensions."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    if a.dtype.kind != "f" or not a.dtype.isnative:
        raise TypeError(f"{name}: expected a native floating-point dtype, got {a.dtype}")
    if a.ndim != ndim:
        raise ValueError(f"{name}: expected {dims}, got {a.shape}")


def check_layer(
    G: int, x: Array, w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None, **states: Array | None
) -> tuple[int, int, int]:
    """Check the arguments of a layer whose cell has G gates; return (T, B, H)."""
    rows = f"{G}*H" if G > 1 else "H"
    check_float("w_ih", w_ih, f"({rows}, I)", 2)
    GH, I = w_ih.shape
    if GH % G:
        raise ValueError(f"w_ih: expected ({rows}, I), got {w_ih.shape}")
    H, dtype = GH // G, w_ih.dtype
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu":
        if x.dtype not in (np.int32, np.int64) or x.ndim != 2:
            raise TypeError(f"x: expected token ids of int32 or int64, (T, B), got {x.dtype} {x.shape}")
        like = "w_ih"
    else:
        check_float("x", x, "(T, B, I) or token ids (T, B)", 3)
        check("x", x, "(T, B, I)", (*x.shape[:2], I), dtype, "w_ih")
        like = "x"
    T, B = x.shape[:2]
    check("w_hh", w_hh, f"({rows}, H)", (GH, H), dtype, like)
    if b_ih is not None and np.ndim(b_ih) == 2:
        check("b_ih", b_ih, f"(B, {rows})", (B, GH), dtype, like)
    elif b_ih is not None:
        check("b_ih", b_ih, f"({rows})", (GH,), dtype, like)
    if b_hh is not None:
        check("b_hh", b_hh, f"({rows})", (GH,), dtype, like)
    for name, state in states.items():
        if state is not None:
            check(name, state, "(B, H)", (B, H), dtype, like)
    return T, B, H


def check_lengths(lengths: Lengths | None, T: int, B: int) -> npt.NDArray[np.int64] | None:
    """``lengths`` as a new int64 array (B), or None."""
    if lengths is None:
        return None
    values = np.asarray(lengths)
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {values.dtype}")
    if values.shape != (B,):
        raise ValueError(f"lengths: expected (B) = ({B},), got {values.shape}")
    for b in np.flatnonzero((values < 0) | (values > T)):
        raise ValueError(f"lengths: expected values in [0, T] = [0, {T}], got {values[b]} at index {b}")
    return values.astype(np.int64)


def check_ids(x: Array, w_ih: Array, valid: Array) -> None:
    """Raise ValueError unless the ids outside padding name columns of w_ih; an x of floats passes."""
    I = w_ih.shape[1]
    if x.ndim == 2:
        for t, b in np.argwhere(valid & ((x < 0) | (x >= I))):
            raise ValueError(f"x: expected token ids in [0, I) = [0, {I}), got {x[t, b]} at ({t}, {b})")


def check_saved(saved: Any, expected: type) -> None:
    """Raise TypeError unless ``saved`` comes from this operation's own forward."""
    if not isinstance(saved, expected):
        raise TypeError(f"saved: expected {expected.__name__}, got {type(saved).__name__}")


def copy_or_zeros(name: str, a: Array | None, dims: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """A checked copy in C order, or zeros for None."""
    if a is None:
        return np.zeros(shape, dtype)
    check(name, a, dims, shape, dtype)
    return np.array(a, order="C")
