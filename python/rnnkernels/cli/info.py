"""`rnnkernels info`: one fact a line.  Integrations are looked up, never imported."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import cuda, info

# Distribution, the module it is imported as, what it is for.
INTEGRATIONS = (
    ("rich", "the command line"),
    ("safetensors", "model files"),
    ("matplotlib", "loss curves"),
    ("torch", "PyTorch"),
    ("jax", "JAX"),
    ("onnx", "ONNX"),
    ("keras", "Keras"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rnnkernels info`: none."""


def run(options: argparse.Namespace) -> int:
    """Print the facts."""
    facts = info()
    for name, value in _lines(facts):
        print(f"{name:<13}{value}")
    return 0


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    found = [
        f"{name} ({purpose}): {'importable' if importlib.util.find_spec(name) else 'not installed'}"
        for name, purpose in INTEGRATIONS
    ]
    return [
        ("rnnkernels", facts["version"]),
        ("python", f"{platform.python_version()}, numpy {np.__version__}, {platform.platform()}"),
        *((name, value) for name, value in facts.items() if name not in ("version", "kernels")),
        ("kernels", len(facts["kernels"])),
        ("cuda", _gpus()),
        *(("integration", line) for line in found),
    ]


def _gpus() -> str:
    facts = cuda.info()
    built = f"kernels for {', '.join(facts['targets'])}; " if facts["targets"] else ""
    return built + (facts["why_not"] or ", ".join(device["name"] for device in facts["devices"]))
