"""What a library is to the benchmark: the ways in which it can compute a row, all of which are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ...testing import Array
from ..grid import Row


class Way(NamedTuple):
    """One way to compute a row.

    Attributes
    ----------
    call
        What is timed, on arrays in the library's own form.
    arrays
        Turns what `call` returns into NumPy arrays in the order of `Row.result_names`.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], Sequence[Array]]


class Library(Protocol):
    """A library at work in this process."""

    version: str

    def __init__(self, threads: int) -> None: ...

    def ways(self, row: Row) -> dict[str, Way]:
        """The ways by name; none if the library cannot compute the row.

        A library looks at the row's dtype and mode itself: what it does not know, it must not ignore.
        """
        ...


def reordered(a: Array, gates: Sequence[int]) -> Array:
    """The blocks of rows that belong to gates, (G*H) or (G*H, ...), in another order."""
    blocks = a.reshape(len(gates), -1, *a.shape[1:])  # (G, H, ...)
    return blocks[list(gates)].reshape(a.shape)
