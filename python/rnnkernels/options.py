"""How kernels run: threads, instruction set, products; set for a block of code, the process, or from outside.

What is set innermost wins: ``config``, then ``set_num_threads``, then the environment.  The one subtlety: a
call reads one context variable and looks up the ``Execution`` made for it, so a choice costs next to nothing.
"""

from __future__ import annotations

import operator
import os
import platform
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from . import _core

MAX_THREADS = 1024


class _Choice(NamedTuple):
    """What ``config`` has set; None is left to what is outside it."""

    num_threads: int | None = None
    isa: str | None = None
    matmul: str | None = None


_Nested: TypeAlias = tuple[_Choice, "_Nested | None"]  # a choice, and the one it is nested in

_current: ContextVar[_Nested] = ContextVar("rnnkernels.config", default=(_Choice(), None))
_executions: dict[_Choice, _core.Execution] = {}  # a new one when a default changes
_process_num_threads: int | None = None


class config:
    """Set execution options for a ``with`` block; nestable, and of this thread or asynchronous task alone.

    Parameters
    ----------
    num_threads
        Threads that a call may use, at least 1; the results do not depend on it.
    isa
        "scalar", "avx2", "avx512", "avx512bf16" or "amx" (AVX-512 with other kernels for bfloat16), or
        "neon", which this CPU and build must have.
    matmul
        How products of float32 are taken on a GPU: "float32", exactly as everywhere, or "tf32", on tensor
        cores, which read 10 bits of each fraction.  Of no effect on the CPU.

    Raises
    ------
    TypeError, ValueError
        At once, for an option that is none or not available.

    Examples
    --------
    >>> with config(num_threads=1, isa="scalar"):
    ...     get_num_threads()
    1
    """

    def __init__(
        self, num_threads: int | None = None, isa: str | None = None, matmul: str | None = None
    ) -> None:
        self._choice = _Choice(
            None if num_threads is None else _check_num_threads("num_threads", num_threads),
            None if isa is None else _check_isa("isa", isa),
            None if matmul is None else _check_matmul("matmul", matmul),
        )

    def __enter__(self) -> None:
        """Begin the block."""
        outer = _current.get()
        own, around = self._choice, outer[0]
        chosen = _Choice(
            own.num_threads or around.num_threads, own.isa or around.isa, own.matmul or around.matmul
        )
        _current.set((chosen, outer))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Return to the options outside the block."""
        outer = _current.get()[1]
        assert outer is not None
        _current.set(outer)


def set_num_threads(num_threads: int) -> None:
    """Set how many threads a call may use, for the whole process, outside of ``config`` blocks.

    Parameters
    ----------
    num_threads
        At least 1.

    Raises
    ------
    TypeError, ValueError
        For what is no integer, or out of range.
    """
    global _process_num_threads, _executions
    _process_num_threads = _check_num_threads("num_threads", num_threads)
    _executions = {}


def get_num_threads() -> int:
    """How many threads a call made here and now may use.

    Set by ``config``, ``set_num_threads``, the environment variables RNNKERNELS_NUM_THREADS and
    OMP_NUM_THREADS, and the CPUs this process may use: the first of these that says anything.
    """
    return execution().num_threads


def get_include() -> str:
    """The folder of the C++ headers, for an include path: ``#include <rnnkernels/api.h>``."""
    return str(Path(_core.__file__).parent / "include")


def info() -> dict[str, Any]:
    """What was built, and what a call made here and now would use.

    Returns
    -------
    dict
        version; isa, the instruction set in use; isas, those available here, best first; compiled, those
        built; num_threads; cpu, its name; kernels, the names of all kernels built.
    """
    chosen = execution()
    return {
        "version": _core.__version__,
        "isa": chosen.isa,
        "isas": _core.available_isas(),
        "compiled": _core.compiled_isas(),
        "num_threads": chosen.num_threads,
        "cpu": _cpu_name(),
        "kernels": [name for name, *_ in _core.kernels()],
    }


def execution() -> _core.Execution:
    """The options of a call made here and now, as the kernels take them."""
    made, choice = (
        _executions,
        _current.get()[0],
    )  # a thread that sets a default meanwhile leaves this dict behind
    try:
        return made[choice]
    except KeyError:
        isa, num_threads = choice.isa or _default_isa(), choice.num_threads or _default_num_threads()
        made[choice] = _core.Execution(isa, num_threads)
        return made[choice]


def matmul() -> str:
    """How products of float32 are taken on a GPU in a call made here and now."""
    return _current.get()[0].matmul or "float32"


def _default_isa() -> str:
    name = os.environ.get("RNNKERNELS_ISA")
    return _check_isa("RNNKERNELS_ISA", name) if name else _core.best_isa()


def _default_num_threads() -> int:
    if _process_num_threads is not None:
        return _process_num_threads
    own = os.environ.get("RNNKERNELS_NUM_THREADS")
    if own:
        if not own.isdecimal() or not 1 <= int(own) <= MAX_THREADS:
            raise ValueError(
                f"RNNKERNELS_NUM_THREADS: expected an integer in [1, {MAX_THREADS}], got {own!r}"
            )
        return int(own)
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # of nested levels, the first
    if openmp.isdecimal() and int(openmp) > 0:  # else it is for OpenMP to complain of
        return min(int(openmp), MAX_THREADS)
    return min(_core.usable_cpus(), MAX_THREADS)


def _check_num_threads(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    number = operator.index(value)
    if not 1 <= number <= MAX_THREADS:
        raise ValueError(f"{name}: expected an integer in [1, {MAX_THREADS}], got {number}")
    return number


def _check_isa(name: str, value: Any) -> str:
    available = _core.available_isas()
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected the name of an instruction set, got {type(value).__name__}")
    if value not in available:
        raise ValueError(f"{name}: expected one available here, of {', '.join(available)}, got {value!r}")
    return value


def _check_matmul(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected 'float32' or 'tf32', got {type(value).__name__}")
    if value not in ("float32", "tf32"):
        raise ValueError(f"{name}: expected 'float32' or 'tf32', got {value!r}")
    return value


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
