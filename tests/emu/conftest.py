"""Builds the emulated programs once, before the first test that needs any."""

from __future__ import annotations

import sys

import programs
import pytest


@pytest.fixture(scope="session", autouse=True)
def _programs_are_built() -> None:
    if sys.platform == "linux":
        programs.build(programs.ALL)
