"""Execution options: which of them wins, where they reach, what is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnkernels as rk
from kernelcases import BFLOAT16_ISAS
from rnnkernels import config, get_num_threads, info, options, set_num_threads

ISAS = info()["isas"]
ABSENT = "avx2" if "neon" in ISAS else "neon"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts without set_num_threads, environment variables or remembered defaults."""
    for name in ("RNNKERNELS_NUM_THREADS", "OMP_NUM_THREADS", "RNNKERNELS_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(options, "_process_num_threads", None)
    monkeypatch.setattr(options, "_executions", {})


def refuses(error: type[Exception], text: str, call: Callable[..., Any], *args: Any, **keywords: Any) -> None:
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    assert str(caught.value) == text


# -- precedence ----------------------------------------------------------------------------------------------


def test_default_is_what_the_machine_has() -> None:
    assert get_num_threads() == CPUS
    assert info()["isa"] == ISAS[0]


@pytest.mark.parametrize(
    ("variables", "num_threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"OMP_NUM_THREADS": "3", "RNNKERNELS_NUM_THREADS": "7"}, 7),
        ({"OMP_NUM_THREADS": "3", "RNNKERNELS_NUM_THREADS": ""}, 3),
    ],
)
def test_environment(variables: dict[str, str], num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert get_num_threads() == num_threads
    set_num_threads(2)
    assert get_num_threads() == 2
    with config(num_threads=6):
        assert get_num_threads() == 6
        set_num_threads(4)
        assert get_num_threads() == 6
    assert get_num_threads() == 4


@pytest.mark.parametrize("value", ["", "many", "0", "-2", "2.0"])
def test_what_openmp_would_not_understand_is_left_to_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert get_num_threads() == CPUS


@pytest.mark.parametrize("value", ["many", "0", "-2", "2.0", "1025", " "])
def test_bad_number_in_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERNELS_NUM_THREADS", value)
    text = f"RNNKERNELS_NUM_THREADS: expected an integer in [1, 1024], got {value!r}"
    refuses(ValueError, text, get_num_threads)
    refuses(ValueError, text, rk.linear_forward, np.ones((1, 1)), np.ones((1, 1)))
    with config(num_threads=2):  # then nobody asks the environment
        assert get_num_threads() == 2


@pytest.mark.parametrize("isa", ISAS)
def test_isa_from_the_environment_and_config(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERNELS_ISA", isa)
    assert info()["isa"] == isa
    with config(isa=ISAS[-1]):
        assert info()["isa"] == ISAS[-1]
    assert info()["isa"] == isa


def test_bad_isa() -> None:
    for name in (ABSENT, "sse9", "AVX2", ""):
        text = f"isa: expected one available here, of {', '.join(ISAS)}, got {name!r}"
        refuses(ValueError, text, config, isa=name)
    refuses(TypeError, "isa: expected the name of an instruction set, got int", config, isa=2)


def test_bad_isa_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERNELS_ISA", ABSENT)
    text = f"RNNKERNELS_ISA: expected one available here, of {', '.join(ISAS)}, got {ABSENT!r}"
    refuses(ValueError, text, info)
    refuses(ValueError, text, rk.linear_forward, np.ones((1, 1)), np.ones((1, 1)))


@pytest.mark.parametrize("call", [set_num_threads, config])
def test_bad_num_threads(call: Callable[..., Any]) -> None:
    for value in (0, -1, 1025, 2**70):
        text = f"num_threads: expected an integer in [1, 1024], got {value}"
        refuses(ValueError, text, call, num_threads=value)
    for value in (1.0, "2", True, [1]):
        text = f"num_threads: expected an integer, got {type(value).__name__}"
        refuses(TypeError, text, call, num_threads=value)
    call(num_threads=np.int32(1024))


# -- reach ---------------------------------------------------------------------------------------------------


def test_nesting_leaves_alone_what_is_not_given() -> None:
    with config(num_threads=3, isa="scalar"):
        with config(num_threads=5):
            assert (get_num_threads(), info()["isa"]) == (5, "scalar")
            with config(isa=ISAS[0]):
                assert (get_num_threads(), info()["isa"]) == (5, ISAS[0])
            with config():
                assert (get_num_threads(), info()["isa"]) == (5, "scalar")
        assert get_num_threads() == 3
    assert info()["isa"] == ISAS[0]


def test_defaults_show_through() -> None:
    with config(isa="scalar"):
        set_num_threads(9)
        assert get_num_threads() == 9


def test_an_exception_ends_the_block() -> None:
    set_num_threads(1)
    with pytest.raises(ZeroDivisionError), config(num_threads=3):
        1 / 0  # noqa: B018
    assert get_num_threads() == 1


def test_one_object_may_be_entered_again() -> None:
    three = config(num_threads=3)
    set_num_threads(1)
    with three, config(num_threads=4), three:
        assert get_num_threads() == 3
    assert get_num_threads() == 1


def test_threads_have_their_own() -> None:
    set_num_threads(1)
    shared = config(num_threads=2)
    inside, seen = threading.Barrier(2, timeout=10), {}

    def work() -> None:
        seen["before"] = get_num_threads()
        with shared, config(num_threads=7):
            inside.wait()
            seen["within"] = get_num_threads()
            inside.wait()
        seen["after"] = get_num_threads()

    other = threading.Thread(target=work)
    with shared:
        other.start()
        inside.wait()
        assert get_num_threads() == 2
        inside.wait()
    other.join()
    assert get_num_threads() == 1
    assert (seen["within"], seen["after"]) == (7, seen["before"])


def test_asynchronous_tasks_have_their_own() -> None:
    async def task(num_threads: int) -> int:
        with config(num_threads=num_threads):
            await asyncio.sleep(0.001 * num_threads)
            return get_num_threads()

    async def main() -> list[int]:
        return await asyncio.gather(*map(task, range(1, 6)))

    set_num_threads(8)
    assert asyncio.run(main()) == [1, 2, 3, 4, 5]
    assert get_num_threads() == 8


def test_results_of_every_isa_and_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    x, w_ih, w_hh = (rng.standard_normal(s, dtype=np.float32) for s in ((9, 8, 6), (64, 6), (64, 16)))
    want = rk.reference.lstm_forward(x, w_ih, w_hh).y
    for isa in ISAS:
        with config(isa=isa):
            for num_threads in (1, 2, 3):
                with config(num_threads=num_threads):
                    np.testing.assert_allclose(rk.lstm_forward(x, w_ih, w_hh).y, want, atol=1e-5)


def test_a_pack_keeps_its_isa() -> None:
    params = [[(np.ones((4, 2)), np.ones((4, 4)), None, None)]]
    with config(isa="scalar"):
        packed = rk.pack("rnn_tanh", params)
    assert "isa='scalar'" in repr(packed)
    x = np.ones((3, 1, 2))
    np.testing.assert_allclose(packed.forward(x)[0], rk.stack_forward("rnn_tanh", x, params).y, atol=1e-12)


# -- the environment is read when it is first needed ---------------------------------------------------------


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", f"import os, rnnkernels as rk; {code}"]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return (result.stdout or result.stderr).strip().splitlines()[-1]


def test_fresh_processes() -> None:
    assert run("print(rk.get_num_threads())", RNNKERNELS_NUM_THREADS="6") == "6"
    assert run("os.environ['RNNKERNELS_NUM_THREADS'] = '5'; print(rk.get_num_threads())") == "5"
    assert run("print(rk.info()['isa'])", RNNKERNELS_ISA="scalar") == "scalar"
    error = run("rk.info()", RNNKERNELS_ISA="sse9")  # importing went well
    assert (
        error == f"ValueError: RNNKERNELS_ISA: expected one available here, of {', '.join(ISAS)}, got 'sse9'"
    )


# -- what is told --------------------------------------------------------------------------------------------


def test_info() -> None:
    facts = info()
    assert list(facts) == ["version", "isa", "isas", "compiled", "num_threads", "cpu", "kernels"]
    assert facts["version"] == rk.__version__
    assert "scalar" in facts["isas"]
    assert set(facts["isas"]) <= set(facts["compiled"])
    assert facts["cpu"]
    sets = sum(1 if isa in BFLOAT16_ISAS else 4 for isa in facts["compiled"])
    assert len(facts["kernels"]) == len(set(facts["kernels"])) == 16 * sets
    assert "lstm_forward_f32_scalar" in facts["kernels"]


def test_headers_are_where_they_are_said_to_be() -> None:
    include = Path(rk.get_include())
    assert (include / "rnnkernels" / "api.h").is_file()
    assert (include / "rnnkernels" / "core" / "cells" / "lstm.h").is_file()


# -- RNNKERNELS_EXPLAIN --------------------------------------------------------------------------------------

EXPLAINED = """
import numpy as np, rnnkernels as rk
def call(T, B, I, H, **options):
    x, w_ih, w_hh = (np.zeros(s, np.float32) for s in ((T, B, I), (4 * H, I), (4 * H, H)))
    with rk.config(num_threads=2):
        rk.lstm_backward(None, rk.lstm_forward(x, w_ih, w_hh, **options).saved)
call(3, 2, 4, 5)
call(20, 40, 32, 64)
call(20, 40, 32, 64, lengths=[20] * 40)
call(40, 4, 256, 512)
"""


def test_explain_names_each_choice_and_its_reason() -> None:
    def lines(asked: str) -> list[str]:
        environment = os.environ | {"RNNKERNELS_EXPLAIN": asked, "RNNKERNELS_ISA": "scalar"}
        command = [sys.executable, "-c", EXPLAINED]
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert result.stdout == ""
        return result.stderr.splitlines()

    assert lines("") == lines("0") == []
    tiny, _, wide, _, ragged, _, large, large_backward = lines("1")
    assert tiny.startswith("rnnkernels: lstm_forward_f32_scalar, T=3 B=2 I=4 H=5: 1 thread (waking a worker")
    assert "2 threads sharing sequences (the weights fit in L2), input and state in one tile," in wide
    assert "sharing sequences" in ragged
    assert "in one tile" not in ragged
    assert "2 threads sharing units (each keeps its weights in cache)," in large
    assert large_backward.startswith("rnnkernels: lstm_backward_f32_scalar, ")
    assert all(line.endswith(" MiB of scratch") for line in (tiny, wide, ragged, large))
