"""Arrays of a GPU: whether kernels for them are there, and where calls on them run.

The public functions of ``rnnkernels`` take such arrays with no other change: those of PyTorch and CuPy,
whose library makes the results, and any others that speak DLPack or have ``__cuda_array_interface__``, for
which all results must be given as ``out=``.  A call queues its kernels on the current stream of that library
and returns at once.  The one subtlety: no library is imported here; an array's own has been already.

Large products go to cuBLASLt where it is found: loaded already (as by PyTorch), in NVIDIA's wheels, or where
the system looks.  The environment variable RNNKERNELS_CUBLASLT is a path instead, or "off".
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .options import execution, matmul

try:
    from . import _cuda
except ImportError as error:
    _cuda = None  # type: ignore[assignment]
    _missing = (
        f"its CUDA kernels could not be loaded: {error}"
        if importlib.util.find_spec("._cuda", __package__)
        else "rnnkernels was built without CUDA kernels; RNNKERNELS_CUDA=on builds them, with nvcc 12 or 13"
    )

LEAST_FOR_BLAS = 2**30  # multiplications of a product, from which on it goes to cuBLASLt; not measured yet
_GPU = (2, 13)  # kDLCUDA and kDLCUDAManaged of DLPack


def is_available() -> bool:
    """Whether calls on arrays of a GPU can run here."""
    return why_not() is None


def why_not() -> str | None:
    """Why calls on arrays of a GPU cannot run here, or None if they can."""
    if _cuda is None:
        return _missing
    return _cuda.why_no_device() or None


def info() -> dict[str, Any]:
    """What was built for GPUs, and what this machine has.

    Returns
    -------
    dict
        available, a bool; why_not, as the function of that name; targets, the architectures that kernels are
        compiled for; runtime and driver, the versions of CUDA that kernels are linked with and that the
        driver has, such as (13, 0); cublaslt, the version in use or why there is none; devices, a list of
        dicts: name, compute_capability, multiprocessors, memory in bytes.
    """
    reason = why_not()
    facts: dict[str, Any] = {"available": reason is None, "why_not": reason}
    if _cuda is None:
        return facts | {"targets": [], "runtime": None, "driver": None, "cublaslt": reason, "devices": []}
    return facts | {
        "targets": _cuda.targets.split(),
        "runtime": _version(_cuda.runtime_version()),
        "driver": _version(_cuda.driver_version()),
        "cublaslt": _load_blas() if reason is None else reason,
        "devices": [_cuda.device(index) for index in range(_cuda.device_count())],
    }


def _version(number: int) -> tuple[int, int] | None:
    return (number // 1000, number % 1000 // 10) if number else None


def _blas_paths() -> Iterator[str]:
    """Where cuBLASLt may be, the likeliest to fit first."""
    name = re.compile(r"libcublasLt\.so(\.1[23])?(\.[\d.]+)?$")
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        maps = []
    mapped = ("/" + line.partition("/")[2] for line in maps)
    yield from dict.fromkeys(path for path in mapped if name.search(path))
    for folder in sys.path:
        yield from sorted(map(str, Path(folder, "nvidia").glob("*/lib/libcublasLt.so.1[23]")), reverse=True)
    yield from ("libcublasLt.so.13", "libcublasLt.so.12")


@functools.cache
def _load_blas() -> int | str:
    """The version of cuBLASLt that is in use from now on, or why there is none."""
    chosen = os.environ.get("RNNKERNELS_CUBLASLT", "")
    if chosen == "off":
        return "RNNKERNELS_CUBLASLT=off"
    said = ""
    for path in [chosen] if chosen else _blas_paths():
        try:
            return _cuda.load_blas(path, LEAST_FOR_BLAS)
        except RuntimeError as error:
            said = str(error)
    if chosen:
        raise RuntimeError(f"RNNKERNELS_CUBLASLT: {said}")
    return said


class Library(NamedTuple):
    """What is asked of the library that an array belongs to."""

    stream: Callable[[int], int]  # device -> its current stream, as a cudaStream_t
    empty: Callable[[int], Callable[[tuple[int, ...], str], Any]]  # device -> (sizes, dtype) -> array


def _torch() -> Library:
    torch = sys.modules["torch"]

    @functools.cache
    def empty(device: int) -> Callable[[tuple[int, ...], str], Any]:
        place = torch.device("cuda", device)
        return lambda sizes, dtype: torch.empty(sizes, dtype=getattr(torch, dtype), device=place)

    return Library(lambda device: int(torch.cuda.current_stream(device).cuda_stream), empty)


def _cupy() -> Library:
    cupy = sys.modules["cupy"]

    @functools.cache
    def empty(device: int) -> Callable[[tuple[int, ...], str], Any]:
        def make(sizes: tuple[int, ...], dtype: str) -> Any:
            with cupy.cuda.Device(device):
                return cupy.empty(sizes, dtype)

        return make

    return Library(lambda device: int(cupy.cuda.get_current_stream(device).ptr), empty)


LIBRARIES = {"torch": _torch, "cupy": _cupy}  # by the root module of an array's type; tests add their own


@functools.cache
def _library(root: str) -> Library | None:
    return LIBRARIES[root]() if root in LIBRARIES else None


def backend(x: Any) -> tuple[Any, Any]:
    """The extension module for a call whose first array is x, which is no NumPy array, and how it runs.

    Raises
    ------
    RuntimeError
        For an array of a GPU where there are no kernels for it.
    TypeError
        For one of a library that lends its arrays to be read, but not to be written.
    """
    device = _device_of(x)
    if device is None:
        return _core, execution()  # which says what it takes
    root = type(x).__module__.partition(".")[0]
    if root in ("jax", "jaxlib"):
        raise TypeError(f"x: expected an array of PyTorch or CuPy, got {type(x).__name__} of JAX")
    if (reason := why_not()) is not None:
        raise RuntimeError(f"x: {type(x).__name__} lies on a GPU, but {reason}")
    _load_blas()
    library = _library(root)
    if library is None:
        return _cuda, _cuda.Execution(device, 0, matmul() == "tf32", None)
    return _cuda, _cuda.Execution(device, library.stream(device), matmul() == "tf32", library.empty(device))


def _device_of(x: Any) -> int | None:
    """The GPU that an array lies on."""
    if isinstance(x, np.generic):
        return None
    if hasattr(x, "__dlpack_device__"):
        try:
            kind, device = x.__dlpack_device__()
        except Exception:  # whatever a library says of an array that it cannot lend
            return None
        return int(device) if kind in _GPU else None
    if hasattr(x, "__cuda_array_interface__"):
        address = x.__cuda_array_interface__["data"][0]  # 0 of an array without elements
        return max(_cuda.device_of(address), 0) if address and is_available() else 0
    return None
