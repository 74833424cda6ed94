"""Arrays that say they lie on a GPU, and the public functions on them: what a user's call goes through.

Their memory is NumPy's; DLPack's structures, versioned and not, are made here, so that it counts what is lent
and given back.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes  # noqa: F401  which makes "bfloat16" a dtype of NumPy
import numpy as np
import pytest
from programs import Module

from devicecases import Device
from rnnkernels import cuda
from rnnkernels.types import Array

GPU = 2  # kDLCUDA


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("sizes", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", Tensor),
    ]  # fmt: skip


LENT: dict[int, Any] = {}  # by the address of what was lent: what keeps it alive


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def give_back(address: int) -> None:
    del LENT[address]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = (
    ctypes.py_object,
    [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
)


def lend(array: Array, versioned: bool, device: int = 0) -> Any:
    """A capsule of an array's memory, as if it were a GPU's."""
    code = 4 if array.dtype.name == "bfloat16" else {"i": 0, "u": 1, "f": 2, "c": 5}[array.dtype.kind]
    numbers = ctypes.c_int64 * array.ndim
    sizes, strides = numbers(*array.shape), numbers(*(step // array.itemsize for step in array.strides))
    data, bits = array.__array_interface__["data"][0], 8 * array.itemsize
    where = ctypes.addressof(sizes), ctypes.addressof(strides)
    tensor = Tensor(data, GPU, device, array.ndim, code, bits, 1, *where, 0)
    deleter = ctypes.cast(give_back, ctypes.c_void_p)
    if versioned:
        managed: Any = ManagedVersioned(1, 0, None, deleter, 0 if array.flags.writeable else 1, tensor)
    else:
        managed = Managed(tensor, None, deleter)
    LENT[ctypes.addressof(managed)] = (managed, sizes, strides, array)
    return new_capsule(ctypes.addressof(managed), b"dltensor_versioned" if versioned else b"dltensor", None)


class OnGpu:
    """Speaks DLPack of version 1, as PyTorch and CuPy do; their library makes arrays."""

    device = 0

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def T(self) -> OnGpu:
        return type(self)(self.array.T)

    def __getitem__(self, index: Any) -> OnGpu:
        return type(self)(self.array[index])

    def __dlpack_device__(self) -> tuple[int, int]:
        return GPU, self.device

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        assert stream == STREAM
        return lend(self.array, versioned=max_version is not None)


class OnGpuBefore(OnGpu):
    """Speaks DLPack as it was before it had versions."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # type: ignore[override]
        return lend(self.array, versioned=False)


class Interface:
    """Has __cuda_array_interface__ alone; nobody is known to make such arrays."""

    __module__ = "nobody"

    def __init__(self, array: Array, **more: Any) -> None:
        self.array, self.more = array, more

    def __getitem__(self, index: Any) -> Interface:
        return Interface(self.array[index])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__array_interface__ | {"version": 3, "stream": 1} | self.more


STREAM = 7
LOAD_BLAS = functools.wraps(cuda._load_blas)(lambda: "not of the emulator")
POOL: list[OnGpu] = []  # what was made while a graph was captured, which replays use


def empty(sizes: tuple[int, ...], dtype: str) -> OnGpu:
    array = OnGpu(np.full(sizes, 0xA5 if dtype == "uint8" else -77, dtype))
    if Graph.capturing:
        POOL.append(array)
    return array


library = cuda.Library(stream=lambda device: STREAM, empty=lambda device: empty)


class Graph:
    """What is called in the block is captured, and done by ``replay``."""

    capturing = False

    def __enter__(self) -> Graph:
        self.emulator = ctypes.CDLL(str(Module().path()))
        self.emulator.begin_capture(ctypes.c_void_p(STREAM))
        Graph.capturing = True
        return self

    def __exit__(self, *exception: object) -> None:
        Graph.capturing = False
        self.emulator.end_capture(ctypes.c_void_p(STREAM))

    def replay(self, turns: int = -1) -> int:
        return int(self.emulator.replay_graph(ctypes.c_int64(turns)))

    def __len__(self) -> int:
        return int(self.emulator.nodes_of_graph())

    def destroy(self) -> None:
        self.emulator.destroy_graph()
        POOL.clear()


@contextmanager
def emulated() -> Iterator[None]:
    """The CUDA backend on emulated kernels, for as long as the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_cuda", Module().load())
        patch.setattr(cuda, "_load_blas", LOAD_BLAS)
        patch.setitem(cuda.LIBRARIES, __name__, lambda: library)
        yield


device = Device(OnGpu, lambda array: array.array, (OnGpu, Interface))


def to_gpu(value: Any, kind: type[Any] = OnGpu) -> Any:
    return device._replace(there=kind).to(value)
