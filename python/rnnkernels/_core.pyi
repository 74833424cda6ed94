"""The extension module: checked views of NumPy arrays in, kernels run, arrays out.  Private to the package.

Arguments typed Any are checked, and their errors raised, by the module itself.
"""

from typing import Any, final

import numpy as np
import numpy.typing as npt

__version__: str

_Array = npt.NDArray[Any]
_Gradient = _Array | None
_Nested = tuple[tuple[tuple[Any, ...], ...], ...]  # [layer][direction], four arrays or None

@final
class Execution:
    """ISA and number of threads of a call."""

    def __init__(self, isa: str, num_threads: int) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...

def available_isas() -> list[str]: ...
def compiled_isas() -> list[str]: ...
def best_isa() -> str: ...
def usable_cpus() -> int: ...
def kernels() -> list[tuple[str, str, str, str]]:
    """(name, cell or head, dtype, ISA) of every kernel built, best ISA first."""

def forward(
    kind: Any,
    single: bool,
    x: Any,
    params: Any,
    h0: Any,
    c0: Any,
    lengths: Any,
    reverse: Any,
    dropout: float,
    dropout_key: int,
    save: Any,
    out: tuple[Any, ...] | None,
    execution: Execution,
    /,
) -> tuple[_Array, _Array, _Array | None, npt.NDArray[np.int64] | None, _Nested | None]:
    """Returns y, h_n, c_n, lengths, and what was kept as [layer][direction] of (x, gates, c, h)."""

def backward(
    kind: Any,
    single: bool,
    dy: Any,
    saved: Any,
    dh_n: Any,
    dc_n: Any,
    dropout: float,
    dropout_key: int,
    needs: int,
    out: tuple[Any, ...] | None,
    accumulate: Any,
    execution: Execution,
    /,
) -> tuple[_Gradient, _Nested, _Gradient, _Gradient]:
    """Returns dx, [layer][direction] of (dw_ih, dw_hh, db_ih, db_hh), dh0, dc0."""

@final
class Packed:
    """The weights of a stack, packed for one ISA, as they are or as int8."""

    def __init__(self, kind: Any, params: Any, weight_dtype: Any, execution: Execution, /) -> None: ...
    def run(
        self, x: Any, h0: Any, c0: Any, lengths: Any, step: bool, execution: Execution, /
    ) -> tuple[_Array, _Array, _Array | None]: ...
    def description(self) -> dict[str, Any]: ...

def linear_forward(
    x: Any, w: Any, b: Any, out: tuple[Any, ...] | None, execution: Execution, /
) -> _Array: ...
def linear_backward(
    dy: Any, saved: Any, needs: int, out: tuple[Any, ...] | None, accumulate: Any, execution: Execution, /
) -> tuple[_Gradient, _Gradient, _Gradient]: ...
def cross_entropy_forward(
    logits: Any, targets: Any, ignore_index: Any, reduction: Any, execution: Execution, /
) -> tuple[_Array, _Array, int]:
    """Returns loss, lse, count."""

def cross_entropy_backward(dloss: Any, saved: Any, execution: Execution, /) -> _Array: ...
def linear_cross_entropy_forward(
    h: Any, w: Any, b: Any, targets: Any, ignore_index: Any, reduction: Any, execution: Execution, /
) -> tuple[_Array, _Array, int]:
    """Returns loss, lse, count."""

def linear_cross_entropy_backward(
    dloss: Any,
    saved: Any,
    needs: int,
    out: tuple[Any, ...] | None,
    accumulate: Any,
    execution: Execution,
    /,
) -> tuple[_Gradient, _Gradient, _Gradient]: ...
