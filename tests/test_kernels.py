"""Every kernel that this CPU runs against the float64 reference, in all the forms its arguments may take.

One test takes a row of the kernel list through one form; the others are about what all kernels share: saved
activations, `needs`, `out` and `accumulate`.  Stacks and heads have files of their own.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import kernelcases
import rnnkernels
from kernelcases import (
    BFLOAT16_ISAS,
    CELL_FORMS,
    DTYPES,
    FLOATS,
    HEAD_FORMS,
    ISAS,
    KERNELS,
    KINDS,
    Case,
    Kernel,
    assert_close,
    check_cell,
    check_head,
    truth,
)
from rnnkernels import functional, reference
from rnnkernels.testing import CELL_KINDS, CellCase, as_float64, assert_within_budget, dtype_of, named_arrays
from rnnkernels.types import Array

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_isa = pytest.mark.parametrize("isa", ISAS)

MIXED = Case(CellCase(9, 7, 5, 17, ragged=True, reverse=True))
PLAIN = Case(CellCase(40, 8, 9, 33))


def rows_and_forms() -> list[Any]:
    def forms(kernel: Kernel) -> Any:
        return CELL_FORMS if kernel.operation in KINDS else HEAD_FORMS

    return [
        pytest.param(kernel, form, id=f"{kernel.name}-{form}") for kernel in KERNELS for form in forms(kernel)
    ]


@pytest.mark.parametrize(("kernel", "form"), rows_and_forms())
def test_kernel(kernel: Kernel, form: str) -> None:
    if kernel.operation in KINDS:
        for case in CELL_FORMS[form]:
            check_cell(kernel, case)
    else:
        for case in HEAD_FORMS[form]:
            check_head(kernel, case)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_random_problems(kind: str, seed: int) -> None:
    """Sizes and forms as they come; both stages, all instruction sets, one, two or three threads."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    for _ in range(15):
        T, B, I, H = (int(rng.integers(1, most)) for most in (40, 70, 70, 140))
        ids, ragged, reverse, state = (bool(rng.integers(2)) for _ in range(4))
        bias = ("vector", "sequence", "none")[rng.integers(3)]
        case = Case(CellCase(T, B, I, H, reverse, ragged, ids, bias, state), "table" if ids and state else "")
        with rnnkernels.config(num_threads=int(rng.integers(1, 4))):
            for kernel in KERNELS:
                if kernel.operation == kind:
                    check_cell(kernel, case)
        truth.cache_clear()


def test_every_row_is_covered() -> None:
    operations = {kernel.operation for kernel in KERNELS}
    assert operations == {*KINDS, "linear", "cross_entropy", "linear_cross_entropy"}
    # each operation, forward and backward, in each dtype, on each instruction set; some are for one dtype
    sets = {
        (dtype, isa) for dtype in DTYPES for isa in ISAS if isa not in BFLOAT16_ISAS or dtype == "bfloat16"
    }
    assert {(kernel.dtype, kernel.isa) for kernel in KERNELS} == sets
    assert len({kernel.name for kernel in KERNELS}) == len(operations) * 2 * len(sets)


# -- saved activations -------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("dtype", FLOATS)
@each_isa
@pytest.mark.parametrize("case", [MIXED, PLAIN], ids=str)
def test_saved_is_interchangeable(kind: str, dtype: str, isa: str, case: Case) -> None:
    want = truth(kind, case, dtype)
    with rnnkernels.config(isa=isa):
        by_kernel = want.problem.forward(functional)
        by_reference = want.problem.forward(reference)
        forward_by_kernel = want.problem.backward(reference, by_kernel.saved)
        backward_by_kernel = want.problem.backward(functional, by_reference.saved)
    for got, saved in ((forward_by_kernel, by_kernel.saved), (backward_by_kernel, by_reference.saved)):
        assert_close(got, want.gradients(saved), "gradient", case, dtype)


@each_kind
@each_isa
def test_backward_alone(kind: str, isa: str) -> None:
    """From the same saved numbers, so that what forward lost is not in the comparison."""
    want = truth(kind, PLAIN, "float32")
    saved = want.problem.forward(reference).saved
    with rnnkernels.config(isa=isa):
        got = want.problem.backward(functional, saved)
    expected = want.wide.backward(reference, as_float64(saved))
    assert_close(got, expected, "gradient", PLAIN, "float32")


@each_kind
@each_isa
def test_saved_borrows_and_owns(kind: str, isa: str) -> None:
    problem = MIXED.problem(kind, "float32")
    with rnnkernels.config(isa=isa):
        result = problem.forward(functional)
    saved = result.saved
    for name in {field.name for field in fields(saved)} & problem.arguments.keys() - {"lengths"}:
        assert getattr(saved, name) is problem.arguments[name] or name in ("reverse", *CELL_KINDS[kind][1])
    assert saved.lengths is not problem.arguments["lengths"]
    assert saved.lengths.dtype == np.int64
    returned = [array for name, array in named_arrays(result).items() if not name.startswith("saved.")]
    owned = [array for name, array in named_arrays(result).items() if name.startswith("saved.")]
    assert not any(np.shares_memory(mine, yours) for mine in owned for yours in returned)


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("case", [MIXED, PLAIN], ids=str)
def test_without_saving_the_bits_are_the_same(kind: str, dtype: str, isa: str, case: Case) -> None:
    problem = case.problem(kind, dtype)
    with rnnkernels.config(isa=isa):
        saving = problem.forward(functional)
        problem.arguments["save"] = False
        not_saving = problem.forward(functional)
    assert not_saving.saved is None
    for name in set(saving._fields) - {"saved"}:
        assert getattr(saving, name).tobytes() == getattr(not_saving, name).tobytes(), name


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("case", [MIXED, PLAIN, Case(CellCase(6, 5, 9, 16, ids=True), "table")], ids=str)
def test_inputs_are_not_written_to(kind: str, dtype: str, isa: str, case: Case) -> None:
    problem, untouched = case.problem(kind, dtype), case.problem(kind, dtype)
    with rnnkernels.config(isa=isa):
        saved = problem.forward(functional).saved
        owned = {name: array.tobytes() for name, array in named_arrays_of(saved).items()}
        problem.backward(functional, saved)
    for name, before in (untouched.arguments | untouched.cotangents).items():
        if isinstance(before, np.ndarray):
            after = (problem.arguments | problem.cotangents)[name]
            assert after.tobytes() == before.tobytes(), name
    assert {name: array.tobytes() for name, array in named_arrays_of(saved).items()} == owned


def named_arrays_of(saved: Any) -> dict[str, Array]:
    return {name: getattr(saved, name) for name in ("gates", "c", "h") if hasattr(saved, name)}


# -- needs, out, accumulate --------------------------------------------------------------------------------


def backward(kind: str, saved: Any, cotangents: dict[str, Any], **options: Any) -> Any:
    return getattr(functional, f"{CELL_KINDS[kind][0]}_backward")(saved=saved, **cotangents, **options)


@each_kind
@each_isa
@pytest.mark.parametrize("case", [MIXED, PLAIN, Case(CellCase(6, 5, 9, 16, ids=True), "table")], ids=str)
def test_needs(kind: str, isa: str, case: Case) -> None:
    want = truth(kind, case, "float32")
    with rnnkernels.config(isa=isa):
        saved = want.problem.forward(functional).saved
        gradients = named_arrays(want.gradients(saved))
        names = list(gradients)
        subsets = [set(), *({name} for name in names), set(names[:2]), set(names[2:]), set(names[::2])]
        for needs in subsets:
            got = named_arrays(backward(kind, saved, want.problem.cotangents, needs=needs))
            assert got.keys() == needs
            for name, gradient in got.items():
                assert_within_budget(gradient, gradients[name], "gradient", name=f"{name} of {needs}")


def strided(like: Array, fill: float) -> Array:
    """An array of that shape and dtype whose elements lie apart, backwards along the last axis."""
    room = np.full((*like.shape[:-1], 3 * like.shape[-1]), fill, like.dtype)
    return room[..., ::-3]


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("layout", ["C order", "strided"])
def test_out(kind: str, dtype: str, isa: str, layout: str) -> None:
    """What was in the arrays does not matter."""
    want = truth(kind, MIXED, dtype)
    problem = MIXED.problem(kind, dtype)

    def empty(results: Any) -> dict[str, Array]:
        likes = {
            name: value.astype(dtype_of(name, dtype))
            for name, value in named_arrays(results).items()
            if "." not in name
        }
        make = strided if layout == "strided" else np.full_like
        return {name: make(like, np.nan) for name, like in likes.items()}

    with rnnkernels.config(isa=isa):
        problem.arguments["out"] = out = empty(want.forward)
        forward = problem.forward(functional)
        assert all(getattr(forward, name) is array for name, array in out.items())
        gradients = empty(want.backward)
        got = backward(kind, forward.saved, problem.cotangents, out=gradients)
        assert all(getattr(got, name) is array for name, array in gradients.items())
    assert_close(forward, want.forward, "forward", layout, dtype)
    assert_close(got, want.gradients(forward.saved), "gradient", layout, dtype)


@each_kind
@each_isa
def test_out_of_an_earlier_result(kind: str, isa: str) -> None:
    problem = PLAIN.problem(kind, "float32")
    with rnnkernels.config(isa=isa):
        first = problem.forward(functional)
        bits = {name: array.tobytes() for name, array in named_arrays(first).items()}
        problem.arguments["out"] = first
        again = problem.forward(functional)
        assert again.y is first.y
        assert {name: array.tobytes() for name, array in named_arrays(again).items()} == bits
        gradients = problem.backward(functional, again.saved)
        bits = {name: array.tobytes() for name, array in named_arrays(gradients).items()}
        into = backward(kind, again.saved, problem.cotangents, out=gradients)
        assert into.dw_hh is gradients.dw_hh
        assert {name: array.tobytes() for name, array in named_arrays(into).items()} == bits


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("layout", ["C order", "strided"])
@pytest.mark.parametrize(
    "case", [MIXED, PLAIN, Case(CellCase(6, 5, 9, 16, ids=True, ragged=True), "table")], ids=str
)
def test_accumulate(kind: str, dtype: str, isa: str, layout: str, case: Case) -> None:
    want = truth(kind, case, dtype)
    rng = np.random.default_rng(5)
    with rnnkernels.config(isa=isa):
        saved = want.problem.forward(functional).saved
        gradients = named_arrays(want.gradients(saved))
        before = {
            name: rng.standard_normal(array.shape).astype(dtype_of(name, dtype))
            for name, array in gradients.items()
        }
        make = strided if layout == "strided" else np.full_like
        out = {name: make(array, 0.0) for name, array in before.items()}
        for name, array in out.items():
            array[...] = before[name]
        del out["dw_hh"]  # which then starts at zero
        got = named_arrays(backward(kind, saved, want.problem.cotangents, out=out, accumulate=True))
    assert got.keys() == gradients.keys()
    for name, gradient in gradients.items():
        expected = gradient if name == "dw_hh" else before[name].astype(np.float64) + gradient
        assert_within_budget(got[name], expected, "gradient", name=name, dtype=dtype)
        assert name == "dw_hh" or got[name] is out[name]


@each_kind
@each_isa
def test_two_halves_accumulate_to_the_whole(kind: str, isa: str) -> None:
    """The batch cut in two, the second half added to the first, as training on micro-batches does."""
    want = truth(kind, PLAIN, "float64")
    arguments, cotangents = want.problem.arguments, want.problem.cotangents
    forward = getattr(functional, f"{CELL_KINDS[kind][0]}_forward")
    out = None
    with rnnkernels.config(isa=isa):
        for half in (slice(0, 3), slice(3, None)):
            part = {
                key: (value[:, half] if key == "x" else value[half]) if key in ("x", "h0", "c0") else value
                for key, value in arguments.items()
            }
            saved = forward(**part).saved
            of_half = {key: d[:, half] if key == "dy" else d[half] for key, d in cotangents.items()}
            needs = {"dw_ih", "dw_hh", "db_ih", "db_hh"}
            out = backward(kind, saved, of_half, needs=needs, out=out, accumulate=out is not None)
    whole = named_arrays(want.gradients(want.problem.forward(functional).saved))
    for key, gradient in named_arrays(out).items():
        assert_within_budget(gradient, whole[key], "gradient", name=key)


def test_the_truth_is_kept() -> None:
    """Tests share problems through a cache, so nobody may have written to one."""
    for kind in KINDS:
        fresh = MIXED.problem(kind, "float32")
        for name, value in kernelcases.truth(kind, MIXED, "float32").problem.arguments.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == fresh.arguments[name].tobytes(), name
