"""The rows of `rnnkernels bench --peers`: every shape, cell and mode, and the numbers that go in.

A library computes the dtypes it can.  Numbers are float32 arrays here, for "bfloat16" of values that it has
too; "int8" means weights of 8 bits, made before from the float32 ones, and float32 arrays: inference alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from ..testing import CELL_KINDS, Array
from .cases import MODES

CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # here -> the kind that stacks know
DTYPES = ("float32", "bfloat16", "int8")
THREADS = (1, 2)
ROUNDS = 5


@dataclass(frozen=True)
class Problem:
    """The numbers of a row, the same in every process.

    Attributes
    ----------
    x, dy
        (T, B, I) and (T, B, D*H), zero in padding.
    params
        [layer][direction] of w_ih, w_hh, b_ih, b_hh, of PyTorch's default size.
    lengths
        (B) from 1 to T, or None.
    """

    x: Array
    params: list[list[tuple[Array, Array, Array, Array]]]
    lengths: Array | None
    dy: Array


@dataclass(frozen=True)
class Row:
    """What is computed: a stack of layers from a zero state, forward or forward and backward."""

    shape: str
    group: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    directions: int = 1
    ragged: bool = False
    cell: str = "lstm"
    mode: str = "inference"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """By which it is selected, printed and kept."""
        suffix = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.cell}-{self.shape}-{self.mode}{suffix}"

    @property
    def kind(self) -> str:
        """The cell as stacks and `rnnkernels.testing` name it."""
        return CELLS[self.cell]

    @property
    def gates(self) -> int:
        """G."""
        return CELL_KINDS[self.kind][2]

    @property
    def training(self) -> bool:
        """Whether gradients are computed, too."""
        return self.mode == "training"

    def input_sizes(self) -> list[int]:
        """Of each layer."""
        return [self.I] + [self.directions * self.H] * (self.layers - 1)

    def result_names(self) -> list[str]:
        """The arrays that a library returns, in their order."""
        names = ["y", "h_n"] + ["c_n"] * (self.cell == "lstm")
        if self.training:
            places = [
                f"_l{layer}{end}"
                for layer in range(self.layers)
                for end in ("", "_reverse")[: self.directions]
            ]
            names += ["dx"] + [f"d{name}{at}" for at in places for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        return names

    def lengths(self) -> Array | None:
        """Of the sequences, uniform from 1 to T, one of them T; None if all are T long."""
        if not self.ragged:
            return None
        rng = np.random.default_rng(1)
        lengths = rng.integers(1, self.T, size=self.B, endpoint=True)
        lengths[rng.integers(self.B)] = self.T
        return lengths

    def problem(self) -> Problem:
        """Draw the numbers."""
        rng = np.random.default_rng(0)
        rows, lengths = self.gates * self.H, self.lengths()

        def stored(values: Array) -> Array:
            array = values.astype(np.float32)
            return array if self.dtype != "bfloat16" else (array.view(np.int32) & ~0xFFFF).view(np.float32)

        def weight(*shape: int) -> Array:
            return stored(rng.uniform(-1.0, 1.0, shape) / np.sqrt(self.H))

        x = stored(rng.standard_normal((self.T, self.B, self.I)))
        dy = stored(rng.standard_normal((self.T, self.B, self.directions * self.H)))
        if lengths is not None:
            padding = np.arange(self.T)[:, None] >= lengths  # (T, B)
            x[padding] = dy[padding] = 0
        params = [
            [
                (weight(rows, columns), weight(rows, self.H), weight(rows), weight(rows))
                for _ in range(self.directions)
            ]
            for columns in self.input_sizes()
        ]
        return Problem(x, params, lengths, dy)


# A step of a model that is in the cache; a sequence alone; batches, shorter where H is large; characters; a
# model so small that only overhead counts; and three ways of not being one plain layer.
SHAPES = (
    Row("step-h128", "latency", 1, 1, 128, 128),
    Row("step-h256", "latency", 1, 1, 256, 256),
    Row("step-h512", "latency", 1, 1, 512, 512),
    Row("step-h1024", "latency", 1, 1, 1024, 1024),
    Row("stream-h128", "latency", 100, 1, 128, 128),
    Row("stream-h512", "latency", 100, 1, 512, 512),
    Row("stream-h1024", "latency", 100, 1, 1024, 1024),
    Row("batch-h256", "batched", 50, 64, 256, 256),
    Row("batch-h512", "batched", 50, 64, 512, 512),
    Row("batch-h1024", "batched", 16, 64, 1024, 1024),
    Row("batch-h2048", "batched", 4, 64, 2048, 2048),
    Row("charlm", "charlm", 128, 50, 65, 128),
    Row("tiny", "tiny", 100, 1, 8, 16),
    Row("two-layers", "structure", 50, 64, 256, 256, layers=2),
    Row("bidirectional", "structure", 50, 64, 256, 256, directions=2),
    Row("ragged", "structure", 50, 64, 256, 256, ragged=True),
)
GROUPS = tuple(dict.fromkeys(shape.group for shape in SHAPES))
SHORT = ("step-h512", "stream-h512", "stream-h1024", "batch-h256", "batch-h512")  # for other dtypes
GRID = tuple(
    replace(shape, cell=cell, mode=mode, dtype=dtype)
    for dtype in DTYPES
    for shape in SHAPES
    for cell in CELLS
    for mode in MODES
    if dtype == "float32" or shape.shape in SHORT
    if mode == "inference" or (shape.T > 1 and dtype != "int8")  # nobody trains on single steps
)


def select(
    rows: Sequence[str] | None = None,
    groups: Collection[str] = GROUPS,
    cells: Collection[str] = tuple(CELLS),
    modes: Collection[str] = MODES,
    dtypes: Collection[str] = DTYPES[:1],
) -> list[Row]:
    """The rows of the grid that are of all these kinds, and match one of the patterns `rows`.

    Raises
    ------
    ValueError
        If a pattern matches no row of the grid.
    """
    for pattern in rows or ():
        if not any(fnmatchcase(row.name, pattern) for row in GRID):
            raise ValueError(f"rows: expected names like {GRID[0].name}, * for any part, got {pattern}")
    return [
        row
        for row in GRID
        if row.group in groups and row.cell in cells and row.mode in modes and row.dtype in dtypes
        if rows is None or any(fnmatchcase(row.name, pattern) for pattern in rows)
    ]
