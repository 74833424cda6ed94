"""Every planted bug is found by the builds and in the orders that its row names; without the bugs nothing is.

By default the plain build runs everything; the sanitized ones run what the plain one cannot find in all
orders, and everything else in random order, which is where most hides.  The whole table is `pytest -m slow`,
or `python tests/emu/zoo.py`.
"""

from __future__ import annotations

import sys

import pytest
import zoo
from programs import BUILDS, Program

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the emulator's fibers and sanitizer hooks are those of Linux"
)

FOUND_BY = {
    "no_bounds_predicate": "heap-buffer-overflow",
    "shared_read_behind": "use-after-poison",
    "misaligned_vector": "misaligned address",
    "flag_not_released": "data race",
    "flag_not_acquired": "data race",
    "counter_without_fence": "data race",
    "sum_without_atomics": "data race",
    "barriers_crossed": "deadlock: all threads wait",
    "lock_order": "livelock: threads run and nothing changes",
    "divergent_barrier": "__syncthreads: a divergent barrier",
    "barrier_of_some": "__syncthreads: a divergent barrier",
    "read_only_of_written": "__ldg: reads what the same kernel writes",
    "copy_never_waited": "ends before it has waited for this copy",
    "shared_too_much": "bytes 0 to 260, and the launch gave 256",
    "grid_barrier_not_cooperative": "launch was not cooperative",
    "wait_for_later_block": "livelock: threads run and nothing changes",
    "peer_leaves_too_early": "has ended",
    "size_not_supported": ": trap",
}


@pytest.fixture(scope="module")
def table() -> list[zoo.Specimen]:
    return zoo.specimens()


def assert_found(specimen: zoo.Specimen, build_name: str, letters: str) -> None:
    for letter in letters:
        text = zoo.finding(build_name, specimen.name, zoo.ORDERS[letter])
        assert text is not None, f"{build_name} lets {specimen.name} pass in order {zoo.ORDERS[letter]}"


def test_the_zoo_is_complete(table: list[zoo.Specimen]) -> None:
    names = [specimen.name for specimen in table]
    assert len(names) == len(set(names)) >= 20
    assert set(FOUND_BY) <= set(names)
    for specimen in table:
        assert any(specimen.caught.values()), f"nothing is to find {specimen.name}"
        assert all(set(letters) <= set(zoo.ORDERS) for letters in specimen.caught.values())
    for name in BUILDS:  # each build finds what no other does, or what it has in common with all
        assert any(specimen.caught[name] for specimen in table)


@pytest.mark.parametrize("order", zoo.ORDERS.values())
@pytest.mark.parametrize("build_name", BUILDS)
def test_kernels_without_bugs_pass(build_name: str, order: str) -> None:
    status, output = zoo.run(Program("zoo", build_name), ["all", "good", order], EMU_SEEDS="5")
    assert status == 0, output
    assert output == ""


def test_plain_finds_in_every_order_it_names(table: list[zoo.Specimen]) -> None:
    for specimen in table:
        assert_found(specimen, "plain", specimen.caught["plain"])


@pytest.mark.parametrize("build_name", ["address", "thread"])
def test_sanitizers_find(build_name: str, table: list[zoo.Specimen]) -> None:
    for specimen in table:
        letters = specimen.caught[build_name]
        assert_found(specimen, build_name, letters if not specimen.caught["plain"] else letters[-1:])


@pytest.mark.slow
@pytest.mark.parametrize("build_name", ["address", "thread"])
def test_sanitizers_find_in_every_order_they_name(build_name: str, table: list[zoo.Specimen]) -> None:
    for specimen in table:
        assert_found(specimen, build_name, specimen.caught[build_name])


def test_findings_say_what_and_where(table: list[zoo.Specimen]) -> None:
    caught = {specimen.name: specimen.caught for specimen in table}
    for name, expected in FOUND_BY.items():
        build_name = next(kind for kind in BUILDS if caught[name][kind])
        status, output = zoo.run(
            Program("zoo", build_name), [name, "bug", zoo.ORDERS[caught[name][build_name][-1]]]
        )
        assert status != 0
        assert expected in output, output
        assert "tests/emu/zoo.cu:" in output or "csrc/cuda/device.cuh:" in output, output  # file and line


@pytest.mark.parametrize("order", zoo.ORDERS.values())
def test_a_failed_launch_leaves_nothing_behind(order: str) -> None:
    """In one process: each bug that ends a launch, and after each a good one."""
    status, output = zoo.run(Program("zoo", "plain"), ["all", "recover", order], EMU_SEEDS="3")
    assert status == 0, output


@pytest.mark.parametrize("build_name", ["address", "thread"])
@pytest.mark.parametrize(
    "name",  # of what the emulator reports before a sanitizer could, which would end the process
    ["divergent_barrier", "barriers_crossed", "lock_order", "mbarrier_expects_more", "copy_never_waited"],
)
def test_a_failed_launch_leaves_nothing_behind_for_sanitizers(name: str, build_name: str) -> None:
    status, output = zoo.run(Program("zoo", build_name), [name, "recover", "random"], EMU_SEEDS="2")
    assert status == 0, output


def test_the_same_seed_is_the_same_run() -> None:
    runs = [zoo.run(Program("zoo", "plain"), ["all", "bug", "random"], EMU_SEEDS="1") for _ in range(2)]
    assert runs[0] == runs[1]


def test_an_unknown_specimen_is_refused() -> None:
    assert zoo.run(Program("zoo", "plain"), ["no_such_bug", "bug", "random"])[0] == 2
