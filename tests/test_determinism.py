"""The same bits: on repeat, on any threads, in any batch, on every vector instruction set, ever again.

Results are compared as bytes, never within a tolerance.  The one subtlety: the sizes are such that several
threads do share the work (a test looks), in both ways there are: by hidden units and by sequences.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import rnnkernels
from kernelcases import (
    BFLOAT16_ISAS,
    DTYPES,
    ISAS,
    KINDS,
    VECTOR_ISAS,
    Case,
    HeadCase,
    isas_of_the_same_bits,
    run_head,
    thinned,
)
from rnnkernels import functional, reference
from rnnkernels.testing import CELL_KINDS, CellCase, CellProblem, dtype_of, named_arrays
from rnnkernels.types import Array

Bits = dict[str, bytes]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_isa = pytest.mark.parametrize("isa", ISAS)
two_vector_isas = pytest.mark.skipif(
    len(VECTOR_ISAS) < 2, reason=f"fewer than two vector instruction sets among {', '.join(ISAS)}"
)

BY_UNITS = Case(CellCase(5, 9, 16, 161))
BY_SEQUENCES = Case(CellCase(24, 23, 16, 31))
ONE_SEQUENCE = Case(CellCase(40, 1, 9, 161, reverse=True))
RAGGED_BY_UNITS = Case(CellCase(9, 13, 16, 161, ragged=True, reverse=True))
RAGGED_BY_SEQUENCES = Case(CellCase(40, 23, 16, 31, ragged=True, bias="sequence"))
IDS = Case(CellCase(24, 23, 50, 31, ids=True, ragged=True), "table")
WIDE_BY_UNITS = Case(CellCase(3, 37, 16, 321))
WIDE_BY_SEQUENCES = Case(CellCase(24, 37, 16, 31, reverse=True))
PARALLEL = [
    WIDE_BY_UNITS,
    WIDE_BY_SEQUENCES,
    BY_UNITS,
    BY_SEQUENCES,
    ONE_SEQUENCE,
    RAGGED_BY_UNITS,
    RAGGED_BY_SEQUENCES,
    IDS,
]
HEADS = [HeadCase((600,), 33, 65, ignored=0.2), HeadCase((70, 5), 17, 300, reduction="none")]


def bits_of(*results: Any) -> Bits:
    arrays = [item for result in results for item in named_arrays(result).items()]
    return {f"{i}.{name}": array.tobytes() for i, (name, array) in enumerate(arrays)}


def run(problem: CellProblem) -> Bits:
    """Every result of forward and backward."""
    forward = problem.forward(functional)
    return bits_of(forward, problem.backward(functional, forward.saved))


def differing(first: Bits, second: Bits) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if first[name] != second[name]]


def states(kind: str) -> tuple[str, ...]:
    return ("h", "c") if kind == "lstm" else ("h",)


# -- repeats, threads --------------------------------------------------------------------------------------


@each_kind
@each_dtype
@each_isa
def test_on_repeat(kind: str, dtype: str, isa: str) -> None:
    problem = RAGGED_BY_UNITS.problem(kind, dtype)
    with rnnkernels.config(isa=isa):
        first = run(problem)
        np.full(1 << 16, np.nan)  # other bytes in the memory that is used again
        assert differing(first, run(problem)) == []


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("case", thinned(PARALLEL, 2), ids=str)
def test_on_any_number_of_threads(kind: str, dtype: str, isa: str, case: Case) -> None:
    problem = case.problem(kind, dtype)
    with rnnkernels.config(isa=isa, num_threads=1):
        alone = run(problem)
    for num_threads in (2, 3, 5):
        with rnnkernels.config(isa=isa, num_threads=num_threads):
            assert differing(alone, run(problem)) == [], num_threads


@each_dtype
@each_isa
@pytest.mark.parametrize("operation", ["linear", "cross_entropy", "linear_cross_entropy"])
@pytest.mark.parametrize("case", HEADS, ids=["mean", "none"])
def test_heads_on_any_number_of_threads(dtype: str, isa: str, operation: str, case: HeadCase) -> None:
    arguments = case.arguments(dtype)
    with rnnkernels.config(isa=isa, num_threads=1):
        alone = bits_of(*run_head(operation, functional, arguments))
    for num_threads in (2, 3, 5):
        with rnnkernels.config(isa=isa, num_threads=num_threads):
            got = bits_of(*run_head(operation, functional, arguments))
        assert differing(alone, got) == [], num_threads


def script(text: str) -> str:
    """Run Python in a process of its own, with what most of them need; return what it printed.

    A process that hangs, or a child that it forked, ends itself by an alarm.
    """
    prelude = "import os, signal, sys, threading, warnings\nfrom test_determinism import *\n"
    prelude += "warnings.simplefilter('ignore')\nsignal.alarm(300)\n"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "-c", prelude + text], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


lists_threads = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="counts threads as Linux lists them"
)


@lists_threads
@pytest.mark.parametrize(
    "case", ["BY_UNITS", "BY_SEQUENCES", "ONE_SEQUENCE", "RAGGED_BY_UNITS", "RAGGED_BY_SEQUENCES", "IDS"]
)
def test_threads_do_share_the_work(case: str) -> None:
    """Else the tests above would prove nothing."""
    counts = script(f"""
problem = {case}.problem('lstm', "float32")
before = len(os.listdir("/proc/self/task"))
with rnnkernels.config(num_threads=5):
    run(problem)
print(len(os.listdir("/proc/self/task")) - before)
""")
    assert int(counts) > 0


@lists_threads
def test_one_thread_starts_no_other() -> None:
    counts = script("""
with rnnkernels.config(num_threads=1):
    run(BY_UNITS.problem("lstm", "float32"))
print(len(os.listdir("/proc/self/task")))
""")
    assert int(counts) == int(script('print(len(os.listdir("/proc/self/task")))'))


def test_nested_configs() -> None:
    problem = BY_UNITS.problem("gru", "float32")
    expected = run(problem)
    with rnnkernels.config(num_threads=3):
        assert differing(expected, run(problem)) == []
        with rnnkernels.config(num_threads=1), rnnkernels.config(isa=ISAS[-1]):
            assert rnnkernels.get_num_threads() == 1
            inner = run(problem)
        assert rnnkernels.get_num_threads() == 3
        assert differing(expected, run(problem)) == []
    with rnnkernels.config(isa=ISAS[-1]):
        assert differing(inner, run(problem)) == []


# -- batches -----------------------------------------------------------------------------------------------


def per_sequence(problem: CellProblem, sequences: Any) -> dict[str, Array]:
    """What belongs to a sequence, of a batch of the given ones; (t, b, ...) turned to (b, t, ...)."""
    batched = {"h0", "c0", "lengths"} | ({"b_ih"} if np.ndim(problem.arguments.get("b_ih")) == 2 else set())

    def take(name: str, value: Any) -> Any:
        if name in ("x", "dy"):
            return np.ascontiguousarray(value[:, sequences])
        return value[sequences] if name in batched or name in ("dh_n", "dc_n") else value

    part = CellProblem(
        problem.kind,
        {name: take(name, value) for name, value in problem.arguments.items()},
        {name: take(name, value) for name, value in problem.cotangents.items()},
    )
    forward = part.forward(functional)
    backward = part.backward(functional, forward.saved)
    results = named_arrays(forward) | named_arrays(backward)
    own = {
        name: results[name]
        for name in ("h_n", "c_n", "dh0", "dc0", *(["db_ih"] if "b_ih" in batched else []))
        if name in results
    }
    return own | {name: results[name].swapaxes(0, 1) for name in ("y", "dx") if name in results}


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize(
    "case",
    thinned(
        [
            Case(CellCase(4, 13, 9, 17)),
            Case(CellCase(3, 13, 3, 65, reverse=True)),
            Case(CellCase(40, 13, 3, 9, ragged=True, reverse=True)),
            Case(CellCase(5, 25, 17, 33, ragged=True, bias="sequence")),
            Case(CellCase(5, 13, 50, 8, ids=True, ragged=True), "table"),
            Case(CellCase(300, 3, 3, 5)),
            Case(CellCase(4, 37, 9, 33, reverse=True)),
        ],
        2,
    ),
    ids=str,
)
def test_a_sequence_alone_and_in_any_batch(kind: str, dtype: str, isa: str, case: Case) -> None:
    problem = case.problem(kind, dtype)
    B = case.cell.B
    others = np.random.default_rng(3).permutation(B)
    with rnnkernels.config(isa=isa):
        together = per_sequence(problem, slice(None))
        batches = [[b] for b in range(B)] + [list(others[:2]), list(others[2:7]), list(others)]
        for batch in batches:
            for name, got in per_sequence(problem, batch).items():
                assert got.tobytes() == together[name][batch].tobytes(), f"{name} of {batch}"


@each_kind
@each_isa
def test_a_sequence_without_its_padding(kind: str, isa: str) -> None:
    problem = Case(CellCase(9, 6, 5, 17, ragged=True, reverse=True)).problem(kind, "float32")
    with rnnkernels.config(isa=isa):
        together = problem.forward(functional)
        for b, length in enumerate(problem.arguments["lengths"]):
            arguments = {
                name: value[b : b + 1] if name in ("h0", "c0") else value
                for name, value in problem.arguments.items()
                if name != "lengths"
            }
            arguments["x"] = problem.arguments["x"][:length, b : b + 1]
            alone = CellProblem(kind, arguments, {}).forward(functional)
            assert alone.y.tobytes() == together.y[:length, b].tobytes()
            for state in states(kind):
                last, of_batch = getattr(alone, f"{state}_n"), getattr(together, f"{state}_n")
                assert last.tobytes() == of_batch[b].tobytes()


@each_dtype
@each_isa
@pytest.mark.parametrize("operation", ["linear", "cross_entropy", "linear_cross_entropy"])
def test_a_row_of_a_head_alone_and_in_any_batch(dtype: str, isa: str, operation: str) -> None:
    arguments = HeadCase((70,), 17, 33, reduction="none").arguments(dtype)
    by_row = {"x", "dy", "h", "logits", "targets", "dloss"}

    def rows(chosen: Any) -> dict[str, Array]:
        part = {name: value[chosen] if name in by_row else value for name, value in arguments.items()}
        forward, backward = run_head(operation, functional, part)
        results = named_arrays(forward) | named_arrays(backward)
        return {name: results[name] for name in ("y", "loss", "dx", "dh", "dlogits") if name in results}

    with rnnkernels.config(isa=isa):
        together = rows(slice(None))
        for chosen in ([5], [69], [3, 2, 60], list(range(20, 33))):
            for name, got in rows(chosen).items():
                assert got.tobytes() == together[name][chosen].tobytes(), f"{name} of {chosen}"


# -- instruction sets --------------------------------------------------------------------------------------


@two_vector_isas
@each_kind
@each_dtype
def test_on_every_vector_isa(kind: str, dtype: str) -> None:
    sizes = ((3, 5, 7, 9), (4, 13, 17, 15), (2, 1, 33, 31), (3, 6, 5, 100), (130, 3, 3, 7), (2, 3, 600, 20))
    cases = [Case(CellCase(*size, ragged=i % 2 == 1)) for i, size in enumerate(sizes)]
    for case in (*cases, *PARALLEL):
        problem = case.problem(kind, dtype)
        results = []
        for isa in isas_of_the_same_bits(dtype):
            with rnnkernels.config(isa=isa):
                results.append(run(problem))
        for other in results[1:]:
            assert differing(results[0], other) == [], case


@two_vector_isas
@each_dtype
@pytest.mark.parametrize("operation", ["linear", "cross_entropy", "linear_cross_entropy"])
def test_heads_on_every_vector_isa(dtype: str, operation: str) -> None:
    for case in (*HEADS, HeadCase((7,), 5, 3), HeadCase((13,), 33, 17, bias=False), HeadCase((2,), 1, 1000)):
        results = []
        for isa in VECTOR_ISAS:
            with rnnkernels.config(isa=isa):
                results.append(bits_of(*run_head(operation, functional, case.arguments(dtype))))
        for other in results[1:]:
            assert differing(results[0], other) == [], case


# -- ever again --------------------------------------------------------------------------------------------
# Digests of results computed from integers that Philox draws: neither the C library nor NumPy has a part in
# them.  Another order of a sum or another constant changes them, and with them the results of every program
# that uses the library: that is to be meant, and told in CHANGELOG.md.  The failing test prints the new ones.
# The cross-entropies are missing, since they end in the C library's log.

DIGESTS = {
    "lstm float32": "8bd26ffe5afbc5da",
    "gru float32": "b7c9bd9fe387ca3b",
    "gru_reset_before float32": "9a69aac1ac142334",
    "rnn_tanh float32": "aef491e6d248ea40",
    "rnn_relu float32": "429e521b67bd3f17",
    "stack of lstm float32": "1a4e89c422803d92",
    "stack of gru float32": "8c9fdb70edf484b6",
    "stack of gru_reset_before float32": "49da67a702165b20",
    "stack of rnn_tanh float32": "1217a0bb343151ee",
    "stack of rnn_relu float32": "8fc64ebf33e7b035",
    "linear float32": "4784580e1f713c47",
    "lstm float64": "376f0294579802e2",
    "gru float64": "2c2f95d73b25cc29",
    "gru_reset_before float64": "b272cd866fdfae06",
    "rnn_tanh float64": "b8e447f0898b5ff4",
    "rnn_relu float64": "8814fd64616bea0b",
    "stack of lstm float64": "e66ad19a8c4a79d9",
    "stack of gru float64": "5b6d4ba9ae7043ac",
    "stack of gru_reset_before float64": "89bf2336805a5b75",
    "stack of rnn_tanh float64": "f85f6de572c0364d",
    "stack of rnn_relu float64": "e00654eefa911214",
    "linear float64": "743313b50c3cc3bc",
    "lstm bfloat16": "1045f5e007fbe964",
    "gru bfloat16": "1f6041828f8bdf40",
    "gru_reset_before bfloat16": "1c83b85d5a3cecc8",
    "rnn_tanh bfloat16": "9d1ec08e842ed634",
    "rnn_relu bfloat16": "0b3d100443ea6ec6",
    "stack of lstm bfloat16": "afdd09e4819d8b9b",
    "stack of gru bfloat16": "c5882ddb0759af19",
    "stack of gru_reset_before bfloat16": "982bd59c6dcd8b8a",
    "stack of rnn_tanh bfloat16": "feed4d6afbc737b6",
    "stack of rnn_relu bfloat16": "03eebe14b8875b9f",
    "linear bfloat16": "36aa33ea3a13c1c8",
    "lstm float16": "4711e8fad5c0d2d8",
    "gru float16": "e0a17d279f9eb12f",
    "gru_reset_before float16": "16c8fa982e7d6419",
    "rnn_tanh float16": "de2d95f545935ad5",
    "rnn_relu float16": "fb3b2e1ac7e22ad9",
    "stack of lstm float16": "c3538eb146fa8797",
    "stack of gru float16": "5d0e9673a8742866",
    "stack of gru_reset_before float16": "af2af0196edc57e3",
    "stack of rnn_tanh float16": "83359f3f85456408",
    "stack of rnn_relu float16": "c0dba2e211059fa5",
    "linear float16": "63aefcb21912981c",
}
BFLOAT16_DIGESTS = {
    "amx": {  # in groups of 32 terms
        "lstm bfloat16": "bd69756d6e1a34ba",
        "gru_reset_before bfloat16": "2ea81efd0ce965fb",
        "stack of lstm bfloat16": "6c928a4fb58e4f0e",
        "wide lstm bfloat16": "15f1b65b63178158",
        "wide gru bfloat16": "e4a22994b089fcf7",
        "wide gru_reset_before bfloat16": "990bcf78e3e60a3a",
        "wide rnn_tanh bfloat16": "4332a60223dd5393",
        "wide rnn_relu bfloat16": "e0d93e857b931cfc",
    },
    "avx512bf16": {  # in pairs, the second number first; in wide layers gate gradients are rounded
        "lstm bfloat16": "785cb99cb4c07352",
        "gru_reset_before bfloat16": "3a27da6af5277382",
        "stack of lstm bfloat16": "2a4346bb6ab290b3",
        "wide lstm bfloat16": "c5ed52c563db7ab8",
        "wide gru bfloat16": "99195b2b16610e5c",
        "wide gru_reset_before bfloat16": "aeeb43e213887601",
        "wide rnn_tanh bfloat16": "9127244129087cfa",
        "wide rnn_relu bfloat16": "e0d93e857b931cfc",
    },
}


def drawn(key: int, *shape: int, dtype: str, scale: float = 1.0) -> Array:
    """Multiples of 2**-22 times a power of two, in [-scale, scale)."""
    size = int(np.prod(shape))
    counter = np.zeros((-(-size // 4), 4), np.uint32)
    counter[:, 0] = np.arange(len(counter))
    words = reference.philox4x32(counter, key).reshape(-1)[:size].view(np.int32) >> 9
    return (words * (scale * 2.0**-22)).astype(dtype).reshape(shape)


def digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def digest_of_cell(kind: str, dtype: str, size: tuple[int, int, int, int] = (20, 13, 11, 37)) -> str:
    T, B, I, H = size
    gates = CELL_KINDS[kind][2]
    arguments: dict[str, Any] = {
        "x": drawn(1, T, B, I, dtype=dtype, scale=2.0),
        "w_ih": drawn(2, gates * H, I, dtype=dtype, scale=0.25),
        "w_hh": drawn(3, gates * H, H, dtype=dtype, scale=0.25),
        "b_ih": drawn(4, B, gates * H, dtype=dtype),
        "b_hh": drawn(5, gates * H, dtype=dtype),
        "lengths": [(7 * b) % (T + 1) for b in range(B)],
        "reverse": True,
    }
    cotangents = {"dy": drawn(6, T, B, H, dtype=dtype)}
    for key, state in enumerate(states(kind)):
        arguments[f"{state}0"] = drawn(7 + key, B, H, dtype=dtype_of(f"{state}0", dtype))
        cotangents[f"d{state}_n"] = drawn(9 + key, B, H, dtype=dtype_of(f"d{state}_n", dtype))
    bits = run(CellProblem(kind, arguments | CELL_KINDS[kind][1], cotangents))
    return digest(bits.values())


def digest_of_stack(kind: str, dtype: str) -> str:
    T, B, I, H = 7, 5, 6, 19
    rows = CELL_KINDS[kind][2] * H
    params = [
        [
            tuple(
                drawn(100 * layer + 10 * direction + i, *shape, dtype=dtype, scale=0.25)
                for i, shape in enumerate(((rows, I if layer == 0 else 2 * H), (rows, H), (rows,), (rows,)))
            )
            for direction in range(2)
        ]
        for layer in range(2)
    ]
    x = drawn(7, T, B, I, dtype=dtype)
    y, hx, saved = functional.stack_forward(kind, x, params, dropout=0.375, rng=12345)
    grads = functional.stack_backward(drawn(8, T, B, 2 * H, dtype=dtype), saved)
    last = hx if isinstance(hx, tuple) else (hx,)
    first = grads.dhx if isinstance(grads.dhx, tuple) else (grads.dhx,)
    weights = [array for layer in grads.params for direction in layer for array in direction]
    return hashlib.sha256(b"".join(a.tobytes() for a in (y, *last, grads.dx, *first, *weights))).hexdigest()[
        :16
    ]


def digest_of_linear(dtype: str) -> str:
    x, w, b, dy = (drawn(i, *s, dtype=dtype) for i, s in enumerate(((300, 19), (37, 19), (37,), (300, 37))))
    forward = functional.linear_forward(x, w, b)
    bits = bits_of(forward, functional.linear_backward(dy, forward.saved))
    return digest(bits.values())


def digests(dtype: str) -> dict[str, str]:
    found = {f"{kind} {dtype}": digest_of_cell(kind, dtype) for kind in KINDS}
    found |= {f"stack of {kind} {dtype}": digest_of_stack(kind, dtype) for kind in KINDS}
    return found | {f"linear {dtype}": digest_of_linear(dtype)}


@pytest.mark.skipif(not VECTOR_ISAS, reason="no vector instruction set here")
@pytest.mark.parametrize("isa", VECTOR_ISAS)
@each_dtype
def test_the_bits_are_the_published_ones(isa: str, dtype: str) -> None:
    with rnnkernels.config(isa=isa):
        found = digests(dtype)
    published = {name: digest for name, digest in DIGESTS.items() if name.endswith(f" {dtype}")}
    if dtype == "bfloat16":
        published |= BFLOAT16_DIGESTS.get(isa, {})
    if isa in BFLOAT16_ISAS and dtype == "bfloat16":  # many units and inputs: backward too
        with rnnkernels.config(isa=isa):
            found |= {f"wide {kind} {dtype}": digest_of_cell(kind, dtype, (20, 13, 19, 75)) for kind in KINDS}
    assert found == published, "\n".join(f'    "{name}": "{digest}",' for name, digest in found.items())


# -- other threads and processes ---------------------------------------------------------------------------


def test_many_python_threads_at_once() -> None:
    problems = [
        case.problem(kind, dtype) for case in PARALLEL[:4] for kind in ("lstm", "gru") for dtype in DTYPES
    ]
    with rnnkernels.config(num_threads=1):
        expected = [run(problem) for problem in problems]

    def call(i: int) -> list[str]:
        with rnnkernels.config(num_threads=1 + i % 4):
            return differing(expected[i % len(problems)], run(problems[i % len(problems)]))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, thinned(range(10 * len(problems)), 4)))
    assert not any(results)


FORKING = """
problem = BY_UNITS.problem("lstm", "float32")
with rnnkernels.config(num_threads=3):
    expected = run(problem)
    {before}
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(240)
            same = all(differing(expected, run(problem)) == [] for _ in range(3))
            threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 3
            os._exit(0 if same and threads >= 3 else 3)
        assert differing(expected, run(problem)) == []
        assert os.waitpid(child, 0)[1] == 0
    {after}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    script(FORKING.format(before="pass", after="pass"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_a_call_is_running() -> None:
    before = """
    stop = threading.Event()
    def work():
        while not stop.is_set():
            with rnnkernels.config(num_threads=3): run(problem)
    thread = threading.Thread(target=work)
    thread.start()"""
    script(FORKING.format(before=before, after="stop.set(); thread.join()"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_pool_of_forked_processes() -> None:
    script("""
import multiprocessing
problem = BY_SEQUENCES.problem("gru", "float32")
def call(_):
    with rnnkernels.config(num_threads=2): return run(problem)
expected = call(0)
with multiprocessing.get_context("fork").Pool(2, signal.alarm, (240,)) as pool:
    assert all(differing(expected, got) == [] for got in pool.map(call, range(6)))
""")


# -- the caller's floating-point environment ---------------------------------------------------------------

UPWARD = 0x800  # FE_UPWARD of x86
MXCSR_AT = 28  # its place in glibc's fenv_t
FLUSH = 0x8040  # flush to zero, denormals are zero

on_x86_with_glibc = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="knows the floating-point environment of x86-64 with glibc only",
)


class Environment:
    """The floating-point environment of this thread."""

    def __init__(self) -> None:
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))

    def get(self) -> tuple[int, int]:
        """Rounding mode, and MXCSR without its flags."""
        block = ctypes.create_string_buffer(32)
        self.libm.fegetenv(block)
        return self.libm.fegetround(), int.from_bytes(block[MXCSR_AT : MXCSR_AT + 4], "little") & ~0x3F

    @contextmanager
    def flushing(self) -> Iterator[None]:
        before = ctypes.create_string_buffer(32)
        self.libm.fegetenv(before)
        mxcsr = int.from_bytes(before[MXCSR_AT : MXCSR_AT + 4], "little") | FLUSH
        self.libm.fesetenv(before[:MXCSR_AT] + mxcsr.to_bytes(4, "little"))
        try:
            yield
        finally:
            self.libm.fesetenv(before)

    @contextmanager
    def rounding_up(self) -> Iterator[None]:
        before = self.libm.fegetround()
        assert self.libm.fesetround(UPWARD) == 0
        try:
            yield
        finally:
            self.libm.fesetround(before)


def in_a_thread(body: Callable[[], None]) -> None:
    """So that nothing of this one changes if the test fails."""
    errors: list[BaseException] = []

    def run_body() -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def tiny_problem(case: Case) -> CellProblem:
    """A problem whose states are subnormal numbers."""
    problem = case.problem("rnn_relu", "float32")
    for name in ("x", "h0", "b_ih", "b_hh"):
        problem.arguments[name] *= np.float32(2.0**-130)
    problem.arguments["w_ih"] += np.float32(1)
    return problem


@on_x86_with_glibc
@each_isa
@pytest.mark.parametrize("case", [BY_UNITS, BY_SEQUENCES], ids=["by units", "by sequences"])
@pytest.mark.parametrize("mode", ["flushing", "rounding_up"])
def test_the_callers_environment_holds_in_every_thread(isa: str, case: Case, mode: str) -> None:
    def body() -> None:
        environment = Environment()
        problem = tiny_problem(case) if mode == "flushing" else case.problem("rnn_relu", "float32")

        def call(num_threads: int) -> Bits:
            with rnnkernels.config(isa=isa, num_threads=num_threads):
                return bits_of(problem.forward(functional))

        usual_state, usual = environment.get(), call(1)
        assert differing(usual, call(4)) == []
        with getattr(environment, mode)():
            state, alone = environment.get(), call(1)
            assert state != usual_state
            assert environment.get() == state
            assert differing(alone, call(4)) == []
            assert environment.get() == state
        # the workers have not kept it
        assert environment.get() == usual_state
        assert differing(usual, call(4)) == []
        # and it did matter
        assert differing(usual, alone) != []

    in_a_thread(body)


@on_x86_with_glibc
@each_isa
def test_subnormal_numbers_are_kept(isa: str) -> None:
    problem = tiny_problem(BY_SEQUENCES)
    with rnnkernels.config(isa=isa, num_threads=3):
        y = problem.forward(functional).y
    tiny = np.finfo(np.float32).tiny
    assert ((y > 0) & (y < tiny)).any()
    want = problem.as_float64().forward(reference).y
    np.testing.assert_allclose(y, want, rtol=0, atol=64 * np.finfo(np.float32).smallest_subnormal)
