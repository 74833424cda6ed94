"""The extension module of CUDA kernels, built where RNNKERNELS_CUDA says so.  Private to the package.

Besides what stands here it has forward, backward and the heads of _core, on arrays of a device and with this
Execution.
"""

from collections.abc import Callable
from typing import Any, final

targets: str  # "sm_80 sm_90 compute_90"

@final
class Execution:
    """Where a call runs, and who makes its results."""

    def __init__(
        self, device: int, stream: int, tf32: bool, empty: Callable[[tuple[int, ...], str], Any] | None
    ) -> None: ...

def device_count() -> int: ...
def why_no_device() -> str: ...
def device(index: int) -> dict[str, Any]: ...
def device_of(address: int) -> int: ...
def runtime_version() -> int: ...
def driver_version() -> int: ...
