"""Builds the emulated programs once, before the first test that needs any."""

from __future__ import annotations

import sys

import programs
import pytest


@pytest.fixture(scope="session", autouse=True)
def _programs_are_built() -> None:
    if sys.platform == "linux":
        if said := programs.missing():
            pytest.skip(f"needs GCC 12 or later with its sanitizers: {said}")
        programs.build(programs.ALL)
