"""How a comparison is told: lines above and below the table, its cells, and all of it in Markdown."""

from __future__ import annotations

from .comparison import Report, Result
from .libraries import OURS
from .timing import Quartiles


def heading(report: Report) -> list[str]:
    """Machine and versions."""
    conditions = report.conditions
    lines = ["{date}, {cpu} ({cpus} CPUs, {isa}), rounds: {rounds}.".format(**conditions)]
    lines.append(", ".join(f"{name} {version}" for name, version in conditions["versions"].items()) + ".")
    for threads, rates in report.machine.items():
        bandwidths = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items() if name != "flops")
        flops = f"{rates['flops'] / 1e9:.0f} GFLOP/s"
        lines.append(f"The machine, threads: {threads}: {flops}; GB/s from {bandwidths}.")
    lines += [f"Left out: {name} ({why})." for name, why in report.absent.items()]
    return lines


def headings(report: Report) -> list[str]:
    """Of the columns."""
    return ["row", "threads", "ms", "floor", *report.peers, "best peer", "times as fast"]


def cells(result: Result, report: Report) -> list[str]:
    """A line of the table: "-" stands for what a library cannot compute, or was not measured."""
    share, times_as_fast, best = result.share(), result.times_as_fast(), result.against_the_best()
    milliseconds = result.milliseconds()
    return [
        result.row.name,
        str(result.threads),
        f"{milliseconds:.2f}" if milliseconds >= 1 else f"{milliseconds:.4f}",
        f"{share.median:.0%}" if share else "-",
        *(f"{times_as_fast[name].median:.2f}" if name in times_as_fast else "-" for name in report.peers),
        result.best() or "-",
        spread(best) if best else "-",
    ]


def spread(ratio: Quartiles) -> str:
    """Median and quartiles."""
    return f"{ratio.median:.2f} ({ratio.lower:.2f}-{ratio.upper:.2f})"


def closing(report: Report) -> list[str]:
    """What failed, and how often we are faster than every peer."""
    lines = [
        f"{result.row.name}, threads: {result.threads}: {who}: {why}"
        for result in report.results
        for who, why in result.failures.items()
    ]
    best = [(ratio, result) for result in report.results if (ratio := result.against_the_best())]
    if not best:
        return [*lines, "No peer took part."]
    ratio, result = min(best, key=lambda pair: pair[0].lower)
    faster = sum(ratio.lower > 1 for ratio, _ in best)
    return [
        *lines,
        f"{OURS} is faster than every peer, by the lower quartile, in {faster} of {len(best)} rows; the "
        f"lowest is {ratio.lower:.2f} ({result.row.name}, threads: {result.threads}).",
    ]


def markdown(report: Report) -> str:
    """Everything."""
    names = headings(report)
    lines = [names, ["---"] + ["--:"] * (len(names) - 1)]
    lines += [cells(result, report) for result in report.results]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*heading(report), "", *table, "", *closing(report)]) + "\n"
