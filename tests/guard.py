"""Arrays between pages that may not be touched, and every kernel run on them: `python guard.py ISA`.

Each input and output ends exactly where a forbidden page begins, in a second round begins exactly where one
ends; inputs cannot be written to either.  A kernel that goes one element too far ends the process, so
test_guard_pages.py runs this in one of its own.  The one subtlety: results are allocated by NumPy, which is
given an allocator for them through its C API.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np

import rnnkernels
from kernelcases import DTYPES, Case, HeadCase, run_head, thinned
from rnnkernels import functional
from rnnkernels.testing import CELL_KINDS, CellCase, CellProblem, named_arrays
from rnnkernels.types import Array

Side = Literal["end", "start"]  # of the array, where the forbidden page is
SIDES: tuple[Side, ...] = ("end", "start")

PAGE = mmap.PAGESIZE
PROT_NONE, PROT_READ, PROT_READ_WRITE = 0, 1, 3
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Memory with a forbidden page on either side."""

    def __init__(self, nbytes: int, side: Side) -> None:
        pages = max(1, -(-nbytes // PAGE))
        self.region = mmap.mmap(-1, (pages + 2) * PAGE)
        self.begin = ctypes.addressof(ctypes.c_char.from_buffer(self.region)) + PAGE
        self.end = self.begin + pages * PAGE
        self._protect(self.begin - PAGE, PAGE, PROT_NONE)
        self._protect(self.end, PAGE, PROT_NONE)
        self.nbytes = nbytes
        self.address = self.begin if side == "start" else self.end - nbytes

    def freeze(self) -> None:
        """Forbid writing."""
        self._protect(self.begin, self.end - self.begin, PROT_READ)

    def __del__(self) -> None:
        self._protect(self.begin - PAGE, self.end - self.begin + 2 * PAGE, PROT_READ_WRITE)

    @staticmethod
    def _protect(address: int, size: int, protection: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")


def guarded(array: Array, side: Side) -> Array:
    """A copy of the same layout, next to a forbidden page and not to be written to."""
    if array.size == 0:
        return array
    if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
        return guarded(array.T, side).T
    memory = Guarded(array.nbytes, side)
    block = (ctypes.c_char * array.nbytes).from_address(memory.address)
    block.memory = memory  # which lives as long as the array
    copy = np.frombuffer(block, array.dtype).reshape(array.shape)
    copy[...] = array
    memory.freeze()
    return copy


def all_guarded(values: dict[str, Any], side: Side) -> dict[str, Any]:
    return {
        name: guarded(value, side) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


# -- what NumPy allocates ----------------------------------------------------------------------------------

_Malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Calloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_Realloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C API (NEP 49)."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    )


class _Allocator:
    """Guarded memory for NumPy; never dies, since arrays that it made may live on."""

    def __init__(self, side: Side) -> None:
        self.side, self.live = side, dict[int, Guarded]()
        malloc, calloc = (
            _Malloc(self.malloc),
            _Calloc(lambda context, n, size: self.malloc(context, n * size)),
        )
        self.handler = _Handler(b"guarded", 1, None, malloc, calloc, _Realloc(self.realloc), _Free(self.free))
        new_capsule = ctypes.pythonapi.PyCapsule_New
        new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
        self.name = ctypes.create_string_buffer(b"mem_handler")  # the capsule borrows it
        self.capsule = new_capsule(ctypes.addressof(self.handler), ctypes.addressof(self.name), None)

    def malloc(self, context: int, size: int) -> int:
        memory = Guarded(size, self.side)  # all zeros
        self.live[memory.address] = memory
        return memory.address

    def calloc(self, context: int, count: int, size: int) -> int:
        return self.malloc(context, count * size)

    def realloc(self, context: int, address: int, size: int) -> int:
        before = self.live.pop(address)
        after = self.malloc(context, size)
        ctypes.memmove(after, address, min(before.nbytes, size))
        return after

    def free(self, context: int, address: int, size: int) -> None:
        del self.live[address]


_allocators = {side: _Allocator(side) for side in SIDES}


def _set_handler(capsule: Any) -> Any:
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(get_pointer(multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = 304  # PyDataMem_SetHandler's place in the table
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[set_handler])(capsule)


@contextmanager
def guarded_results(side: Side) -> Iterator[None]:
    """Every array that NumPy allocates in this block is next to a forbidden page; large results are ours."""
    before = _set_handler(_allocators[side].capsule)
    try:
        yield
    finally:
        _set_handler(before)


# -- kernels on them ---------------------------------------------------------------------------------------


def bits_of(result: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in named_arrays(result).items()}


def check_cell(kind: str, dtype: str, case: Case, side: Side) -> None:
    problem = case.problem(kind, dtype)
    forward = problem.forward(functional)
    backward = bits_of(problem.backward(functional, forward.saved))
    expected = bits_of(forward)

    arguments = all_guarded(problem.arguments, side)
    walled = CellProblem(kind, arguments, all_guarded(problem.cotangents, side))
    with guarded_results(side):
        result = walled.forward(functional)
    assert bits_of(result) == expected
    values = {field.name: getattr(result.saved, field.name) for field in fields(result.saved)}
    saved = replace(result.saved, **all_guarded(values, side))
    with guarded_results(side):
        gradients = walled.backward(functional, saved)
    assert bits_of(gradients) == backward
    with guarded_results(side):
        CellProblem(kind, arguments | {"save": False}, {}).forward(functional)


def check_pack(kind: str, dtype: str, case: CellCase, side: Side) -> None:
    arguments = all_guarded(Case(case).problem(kind, dtype).arguments, side)
    weights = tuple(arguments[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
    x = arguments["x"]  # whose padding is a sequence's too here
    x = guarded(np.maximum(x, 0) if case.ids else np.nan_to_num(x), side)
    for weight_dtype in (None, "int8") if dtype == "float32" else (None,):
        with guarded_results(side):
            pack = functional.pack(kind, [[weights]], weight_dtype)
            y, _ = pack.forward(x)
            step, _ = pack.step(guarded(x[0], side))
        assert step.tobytes() == y[0].tobytes()


def check_head(head: str, dtype: str, case: HeadCase, side: Side) -> None:
    arguments = case.arguments(dtype)
    expected = [bits_of(result) for result in run_head(head, functional, arguments)]
    walled = all_guarded(arguments, side)
    with guarded_results(side):
        results = run_head(head, functional, walled)
    assert [bits_of(result) for result in results] == expected


WIDTHS = (1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33)
ROWS = (1, 2, 5, 7, 13)
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"ragged": True, "reverse": True},
    {"ids": True, "ragged": True},
    {"bias": "sequence", "reverse": True},
    {"bias": "none", "state": False},
)


def cell_cases() -> Iterator[Case]:
    for i, H in enumerate(WIDTHS):
        for j, B in enumerate(ROWS):
            form = FORMS[(i + j) % len(FORMS)]
            case = CellCase(3, B, WIDTHS[(3 * i + 4 * j) % len(WIDTHS)], H, **form)
            yield Case(case, "table" if case.ids and i % 2 else "")
    yield Case(CellCase(130, 2, 3, 5, ragged=True))
    yield Case(CellCase(2, 3, 70, 129))
    yield Case(CellCase(3, 37, 9, 17))
    yield Case(CellCase(3, 37, 9, 17, reverse=True, bias="none", state=False))


def head_cases() -> Iterator[HeadCase]:
    for i, O in enumerate((*WIDTHS, 65, 257)):
        for j, N in enumerate((*ROWS, 65, 257)):
            yield HeadCase((N,), WIDTHS[(3 * i + 4 * j) % len(WIDTHS)], O, bias=j % 2 == 0, reduction="none")


def main(isa: str) -> None:
    """Run everything on an instruction set; print each case before it, so that the last one is known."""
    count = 0
    with rnnkernels.config(isa=isa):
        for side in SIDES:
            for dtype in DTYPES:
                for kind in CELL_KINDS:
                    for case in thinned(cell_cases(), 5):
                        print(kind, dtype, side, case, flush=True)
                        check_cell(kind, dtype, case, side)
                        count += 1
                        if case.cell.bias == "vector":
                            check_pack(kind, dtype, case.cell, side)
                for head in ("linear", "cross_entropy", "linear_cross_entropy"):
                    for head_case in thinned(head_cases(), 5):
                        print(head, dtype, side, head_case, flush=True)
                        check_head(head, dtype, head_case, side)
                        count += 1
    print(count, "cases")


if __name__ == "__main__":
    main(sys.argv[1])
