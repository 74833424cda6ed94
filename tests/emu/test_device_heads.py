"""The heads of the device against the float64 reference, on the emulator in its orders and builds."""

from __future__ import annotations

from pathlib import Path

import heads
import numpy as np
import pytest
import zoo
from heads import FEW, HEADS, Job, jobs
from programs import PROGRAMS, Program
from stepwise import NUMBERS
from test_conformance import TARGETS, assert_nvcc_compiles, needs_nvcc
from test_stepwise import on_emulator

from rnnkernels.types import Array


def emulate(
    build: str, batch: list[Job], order: str = "round_robin", seed: int = 0
) -> list[dict[str, Array]]:
    command, environment = zoo.prepared(Program("heads", build), [order, str(seed)])
    return heads.run(command, batch, environment)


def assert_within_budget(job: Job, got: dict[str, Array]) -> None:
    failed = {name: share for name, share in heads.shares(job, got) if not share <= 1}
    assert not failed, f"{job}: {failed}"


@on_emulator
@pytest.mark.parametrize("number", NUMBERS)
def test_against_the_reference(number: str) -> None:
    batch = jobs([number])
    for job, got in zip(batch, emulate("plain", batch), strict=True):
        assert_within_budget(job, got)


@on_emulator
@pytest.mark.parametrize("number", ["f32", "bf16"])
def test_ignored_rows(number: str) -> None:
    """Whatever they hold: no loss, and gradients of exactly 0."""
    batch = [job for job in jobs([number]) if job.case.ignored and job.head != "linear"]
    for job, got in zip(batch, emulate("plain", batch), strict=True):
        ignored = job.arguments()["targets"] == heads.IGNORED
        assert ignored.any()
        assert not got["loss"][ignored].any()
        assert not got["dx"][ignored].astype(np.float64).any()


@on_emulator
def test_every_order_gives_the_same_bits() -> None:
    batch = jobs(cases=FEW)
    first = emulate("plain", batch)
    for order, seed in [("reverse", 0), *(("random", seed) for seed in range(2))]:
        for job, one, other in zip(batch, first, emulate("plain", batch, order, seed), strict=True):
            for name in one:
                assert np.array_equal(one[name], other[name], equal_nan=True), (
                    f"{job}: {name}, {order} {seed}"
                )


@on_emulator
@pytest.mark.parametrize("build", ["address", "thread"])
def test_under_sanitizers(build: str) -> None:
    batch = [Job(head, number, FEW[i % 2]) for i, head in enumerate(HEADS) for number in ("f32", "bf16")]
    for job, got in zip(batch, emulate(build, batch, "random"), strict=True):
        assert_within_budget(job, got)


@needs_nvcc
@pytest.mark.slow  # the build of _cuda compiles these kernels, too
@pytest.mark.parametrize("target", TARGETS)
def test_nvcc_compiles(target: str, tmp_path: Path) -> None:
    assert_nvcc_compiles(PROGRAMS["heads"], target, tmp_path, kernels=40)
