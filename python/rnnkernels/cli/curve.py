"""The loss curve as a PNG, where matplotlib can be imported; without it none is drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..charlm.checkpoint import write_bytes


def draw_curve(path: Path, losses: Sequence[float], title: str) -> bool:
    """Draw bits per character over steps: each step faintly, and a running mean.

    Returns
    -------
    bool
        Whether a picture was written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    if not losses:
        return False
    window = max(1, len(losses) // 50)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    mean = (sums[window:] - sums[:-window]) / window
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.arange(1, len(losses) + 1), losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(np.arange(window, len(losses) + 1), mean, color="tab:blue", label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="training bits per character", title=title)
    axes.set_ylim(min(losses) * 0.9, np.quantile(losses, 0.98) * 1.1)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_bytes(path, picture.getvalue())
    return True
