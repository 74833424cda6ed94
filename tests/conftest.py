"""What every test module relies on: the markers of frameworks, and --fail-on-skip for continuous integration.

A test that needs a framework carries its marker (@pytest.mark.torch) and imports it inside itself, or after
pytest.importorskip in a module of its own; without the framework it skips and says so.  Where frameworks were
installed on purpose, --fail-on-skip keeps a broken installation from passing.
"""

from __future__ import annotations

import importlib.util

import pytest

FRAMEWORKS = ("jax", "keras", "onnx", "torch")

skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="a skipped test fails the run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for framework in FRAMEWORKS:
        if importlib.util.find_spec(framework) is None:
            for item in items:
                if item.get_closest_marker(framework) is not None:
                    item.add_marker(pytest.mark.skip(reason=f"{framework} is not installed"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--fail-on-skip") and skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--fail-on-skip") and skipped:
        terminalreporter.write_line(f"--fail-on-skip: {len(skipped)} skipped, first {skipped[0]}", red=True)
