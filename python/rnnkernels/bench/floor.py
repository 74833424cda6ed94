"""The least time that a row can take on this machine, from rates that floor.cpp measures in the same round.

It is compiled on the spot with $CXX or c++, for the very CPU it runs on; without a compiler there is no
floor.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np

from .grid import Row

_CPU0 = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # bytes, where the system does not tell
_ITEMSIZE = {"float32": 4, "bfloat16": 2, "int8": 1}
_MOST = 1 << 28  # bytes: enough to be in memory alone


class Floor:
    """The machine's speed; its methods give None where it cannot be measured, and `missing` tells why.

    Parameters
    ----------
    folder
        For the program, which must outlive this object.
    """

    def __init__(self, folder: str) -> None:
        self.program = Path(folder) / "floor"
        self.missing = ""
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        flags = ["-std=c++17", "-O3", "-march=native", "-pthread", "-o", str(self.program)]
        source = str(Path(__file__).with_suffix(".cpp"))
        try:
            subprocess.run([*compiler, *flags, source], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.missing = str(error)

    def seconds(self, row: Row, threads: int) -> float | None:
        """The least time that `row` can take now; None for dtypes whose rates are not measured."""
        if self.missing:
            return None
        flops, (rate,) = self._measure(threads, row.dtype, [working_set(row)])
        return None if flops is None else floor_seconds(row, flops, rate)

    def machine(self, threads: int) -> dict[str, float] | None:
        """Operations a second, and bytes a second from each cache and from memory."""
        if self.missing:
            return None
        sizes = cache_sizes()
        own = {name: size * threads // 2 for name, size in sizes.items() if name != "L3"}  # of each core
        sets = own | {"L3": max(sizes["L3"] // 2, own["L2"]), "DRAM": min(4 * sizes["L3"], _MOST)}
        flops, rates = self._measure(threads, "float32", list(sets.values()))
        assert flops is not None
        return {"flops": flops, **dict(zip(sets, rates, strict=True))}

    def _measure(self, threads: int, dtype: str, sizes: list[int]) -> tuple[float | None, list[float]]:
        command = [str(self.program), str(threads), dtype, *map(str, sizes)]
        rates = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return rates["flops"], rates["bytes"]


def cache_sizes() -> dict[str, int]:
    """Bytes of L1 (data), L2 and L3 of the first CPU."""
    sizes = dict(_USUAL)
    for folder in sorted(_CPU0.glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        kibibytes = re.fullmatch(r"(\d+)K", size)
        if kibibytes and kind != "Instruction" and f"L{level}" in sizes:
            sizes[f"L{level}"] = int(kibibytes[1]) << 10
    return sizes


def working_set(row: Row) -> int:
    """Bytes that are read over and over: w_hh by the steps; for one step, all weights by the calls."""
    if row.T > 1:
        return _bytes(row, row.H)
    return sum(row.directions * _bytes(row, I + row.H) for I in row.input_sizes())


def floor_seconds(row: Row, flops: float, rate: float) -> float:
    """Least seconds of `row` at so many operations and bytes a second.

    The products alone, at the peak; but no less than reading w_ih once, and w_hh again in each step.
    """
    lengths = row.lengths()
    inputs = row.T * row.B if lengths is None else int(np.sum(lengths))  # over all steps
    total = 0.0
    for I in row.input_sizes():
        projection, product = (2 * inputs * row.gates * row.H * columns / flops for columns in (I, row.H))
        recurrence = max(product, row.T * _bytes(row, row.H) / rate)
        seconds = max(projection, _bytes(row, I) / rate) + recurrence
        if row.training:
            seconds += recurrence + 2 * projection + product  # dh; dx and dw_ih; dw_hh
        total += row.directions * seconds
    return total


def _bytes(row: Row, columns: int) -> int:
    """Of so many columns of weights, in the dtype of the row."""
    return row.gates * row.H * columns * _ITEMSIZE[row.dtype]
