"""The chart of a comparison: for each row, how many times as fast as its best peer, with quartiles."""

from __future__ import annotations

from pathlib import Path

from .comparison import Report
from .libraries import OURS

FASTER, SLOWER = "tab:blue", "tab:red"


def draw(report: Report, path: Path) -> None:
    """Write a picture, of the format that the ending of `path` names.

    Raises
    ------
    ModuleNotFoundError
        Without matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = [(result, ratio) for result in report.results if (ratio := result.against_the_best())]
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, ratio) in enumerate(shown):
        color = FASTER if ratio.median >= 1 else SLOWER
        axes.plot(
            [1, ratio.median], [place, place], color=color, alpha=0.3, linewidth=5, solid_capstyle="butt"
        )
        axes.plot([ratio.lower, ratio.upper], [place, place], color=color, linewidth=1.5)
        axes.plot(ratio.median, place, "o", color=color, markersize=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    names = [f"{result.row.name}, {_threads(result.threads)}" for result, _ in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    best = axes.secondary_yaxis("right")
    best.set_yticks(range(len(shown)), [f"{ratio.median:.2f} {result.best()}" for result, ratio in shown])
    best.tick_params(labelsize=7, length=0)
    axes.set_ylim(len(shown) - 0.5, -0.5)  # the first row on top
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_xlabel("times as fast as the best peer: median and quartiles of the rounds' ratios")
    axes.set_title(f"{OURS} on {report.conditions['cpu']}", fontsize=10)
    figure.savefig(path, dpi=120)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
