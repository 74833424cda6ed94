"""What `rnnkernels bench --peers` compares: one module a library, which is imported where it is at work.

So a library that is not installed is missed by nobody else, and none is loaded beside another.
"""

from __future__ import annotations

import importlib

from .base import Library, Way

OURS = "rnnkernels"
OWN_FLOAT32 = "float32"  # a peer, but no other library
# Name -> module here and class.
LIBRARIES = {
    OURS: ("ours", "RnnKernels"),
    "torch": ("torch", "PyTorch"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "openvino": ("openvino", "OpenVino"),
    "jax": ("jax", "Jax"),
    "keras": ("keras", "Keras"),
    "numpy": ("ours", "NumPy"),
    OWN_FLOAT32: ("ours", "Float32"),
}
PEERS = tuple(name for name in LIBRARIES if name != OURS)

__all__ = ["LIBRARIES", "OURS", "OWN_FLOAT32", "PEERS", "Library", "Way", "load"]


def load(name: str, threads: int) -> Library:
    """The library, ready to work with so many threads.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    module, kind = LIBRARIES[name]
    library: Library = getattr(importlib.import_module(f".{module}", __name__), kind)(threads)
    return library
