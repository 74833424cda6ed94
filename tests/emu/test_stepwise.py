"""The stepwise tier against the float64 reference, on the emulator in its orders and builds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import stepwise
import zoo
from programs import PROGRAMS, Program
from stepwise import FEW, INFINITE, KINDS, LARGE, NUMBERS, Job, jobs
from test_conformance import TARGETS, assert_nvcc_compiles, needs_nvcc

from rnnkernels.types import Array

on_emulator = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is written for Linux")


def emulate(
    build: str, batch: list[Job], order: str = "round_robin", seed: int = 0
) -> list[dict[str, Array]]:
    command, environment = zoo.prepared(Program("stepwise", build), [order, str(seed)])
    return stepwise.run(command, batch, environment)


def assert_within_budget(job: Job, got: dict[str, Array]) -> None:
    failed = {name: share for name, share in stepwise.shares(job, got) if not share <= 1}
    assert not failed, f"{job}: {failed}"


@on_emulator
@pytest.mark.parametrize("number", NUMBERS)
def test_against_the_reference(number: str) -> None:
    batch = jobs(numbers=[number])
    for job, got in zip(batch, emulate("plain", batch), strict=True):
        assert_within_budget(job, got)


@on_emulator
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[] if n == "bf16" else pytest.mark.slow) for n in NUMBERS]
)
def test_large_tiles(number: str) -> None:
    batch = jobs(["lstm"], [number], LARGE)
    for job, got in zip(batch, emulate("plain", batch), strict=True):
        assert_within_budget(job, got)


@on_emulator
def test_padding_after_an_infinite_state() -> None:
    (got,) = emulate("plain", [INFINITE])
    assert np.isinf(got["h_n"]).any()
    assert np.isfinite(got["dw_hh"]).all()
    assert_within_budget(INFINITE, got)


@on_emulator
@pytest.mark.parametrize("number", NUMBERS)
def test_every_order_gives_the_same_bits(number: str) -> None:
    batch = jobs(numbers=[number], cases=FEW)
    first = emulate("plain", batch)
    for order, seed in [("reverse", 0), *(("random", seed) for seed in range(2))]:
        for job, one, other in zip(batch, first, emulate("plain", batch, order, seed), strict=True):
            for name in one:
                assert np.array_equal(one[name], other[name], equal_nan=True), (
                    f"{job}: {name}, {order} {seed}"
                )


@on_emulator
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_orders(seed: int) -> None:
    batch = jobs(cases=FEW)
    for job, got in zip(batch, emulate("plain", batch, "random", seed), strict=True):
        assert_within_budget(job, got)


@on_emulator
@pytest.mark.parametrize("build", ["address", "thread"])
@pytest.mark.parametrize("number", ["f32", "bf16"])
def test_under_sanitizers(number: str, build: str) -> None:
    """One case for each cell; products and stores of the other types are the same code."""
    batch = [Job(kind, number, FEW[i % len(FEW)]) for i, kind in enumerate(KINDS)]
    for job, got in zip(batch, emulate(build, batch, "random"), strict=True):
        assert_within_budget(job, got)


@on_emulator
@pytest.mark.slow
@pytest.mark.parametrize("build", ["address", "thread"])
@pytest.mark.parametrize("number", NUMBERS)
def test_all_under_sanitizers(number: str, build: str) -> None:
    batch = jobs(numbers=[number], cases=FEW)
    for job, got in zip(batch, emulate(build, batch, "random"), strict=True):
        assert_within_budget(job, got)


@needs_nvcc
@pytest.mark.slow  # the build of _cuda compiles these kernels, too
@pytest.mark.parametrize("target", TARGETS)
def test_nvcc_compiles(target: str, tmp_path: Path) -> None:
    assert_nvcc_compiles(PROGRAMS["stepwise"], target, tmp_path, kernels=100)
