"""The heads on every instruction set: what test_kernel's cases against the reference leave open.

`needs`, `out`, `accumulate`, saved values handed between kernel and reference, gradients of the loss in every
form, integer types of targets, and that the fused head is the two others one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnkernels
from kernelcases import DTYPES, FLOATS, ISAS, HeadCase, assert_close, run_head
from rnnkernels import functional, reference
from rnnkernels.testing import as_float64, assert_within_budget, named_arrays
from rnnkernels.types import Array

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_isa = pytest.mark.parametrize("isa", ISAS)
each_head = pytest.mark.parametrize("head", ["linear", "cross_entropy", "linear_cross_entropy"])

CASE = HeadCase((33, 9), 17, 37, ignored=0.3)
FUSED = "linear_cross_entropy"


def backward(head: str, arguments: dict[str, Any], saved: Any, **options: Any) -> Any:
    if head == "linear":
        return functional.linear_backward(arguments["dy"], saved, **options)
    return functional.linear_cross_entropy_backward(arguments["dloss"], saved, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@each_isa
@each_head
def test_saved_is_interchangeable(dtype: str, isa: str, head: str) -> None:
    arguments = CASE.arguments(dtype)
    _, want = run_head(head, reference, as_float64(arguments))
    with rnnkernels.config(isa=isa):
        by_kernel, _ = run_head(head, functional, arguments)
        by_reference, _ = run_head(head, reference, arguments)
        _, first = run_head(head, reference, arguments, by_kernel.saved)
        _, second = run_head(head, functional, arguments, by_reference.saved)
    assert_close(first, want, "gradient", "forward by the kernel", dtype)
    assert_close(second, want, "gradient", "backward by the kernel", dtype)


@each_isa
@pytest.mark.parametrize("head", ["linear", FUSED])
def test_needs(isa: str, head: str) -> None:
    arguments = CASE.arguments("float32")
    _, want = run_head(head, reference, as_float64(arguments))
    names = want._fields
    with rnnkernels.config(isa=isa):
        forward, _ = run_head(head, functional, arguments)
        for needs in [set(), *({name} for name in names), set(names[:2]), set(names[1:]), set(names)]:
            got = named_arrays(backward(head, arguments, forward.saved, needs=needs))
            assert got.keys() == needs
            for name, gradient in got.items():
                assert_within_budget(gradient, getattr(want, name), "gradient", name=name)


@each_dtype
@each_isa
@pytest.mark.parametrize("head", ["linear", FUSED])
@pytest.mark.parametrize("strided", [False, True])
def test_out_and_accumulate(dtype: str, isa: str, head: str, strided: bool) -> None:
    arguments = CASE.arguments(dtype)
    _, want = run_head(head, reference, as_float64(arguments))
    rng = np.random.default_rng(0)

    def room(like: Array) -> Array:
        array = np.full((*like.shape, 2) if strided else like.shape, np.nan, dtype)
        return array[..., 1] if strided else array

    with rnnkernels.config(isa=isa):
        forward, _ = run_head(head, functional, arguments)
        out = {name: room(array) for name, array in named_arrays(want).items()}
        got = backward(head, arguments, forward.saved, out=out)
        assert_close(got, want, "gradient", "out", dtype)
        assert all(getattr(got, name) is array for name, array in out.items())

        before = {name: rng.standard_normal(array.shape).astype(dtype) for name, array in out.items()}
        for name, array in out.items():
            array[...] = before[name]
        backward(head, arguments, forward.saved, out=out, accumulate=True)
        for name, array in out.items():
            assert_within_budget(array, before[name] + getattr(want, name), "gradient", name=name)


@each_dtype
@each_isa
def test_linear_into_out(dtype: str, isa: str) -> None:
    arguments = CASE.arguments(dtype)
    x, w, b = (arguments[name] for name in ("x", "w", "b"))
    y = np.full((33, 9, 37), np.nan, dtype)
    with rnnkernels.config(isa=isa):
        forward = functional.linear_forward(x, w, b, out={"y": y}, save=False)
    assert forward.y is y
    assert forward.saved is None
    assert_within_budget(y, as_float64(x) @ as_float64(w).T + as_float64(b), "forward")


@each_dtype
@each_isa
@pytest.mark.parametrize("head", ["cross_entropy", FUSED])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dloss", ["None", "number", "array"])
def test_the_gradient_of_the_loss(dtype: str, isa: str, head: str, reduction: str, dloss: str) -> None:
    arguments = HeadCase((40,), 9, 11, ignored=0.3, reduction=reduction).arguments(dtype)
    if dloss != "array":
        arguments["dloss"] = None if dloss == "None" else -2.5
    _, want = run_head(head, reference, as_float64(arguments))
    with rnnkernels.config(isa=isa):
        _, got = run_head(head, functional, arguments)
    assert_close(got, want, "gradient", dloss, dtype)


@each_isa
@each_dtype
@pytest.mark.parametrize("head", ["cross_entropy", FUSED])
def test_ignored_rows(isa: str, dtype: str, head: str) -> None:
    """Their loss and gradient are exactly 0, whatever they hold; if there are no others the mean is NaN."""
    arguments = CASE.arguments(dtype) | {"reduction": "none", "dloss": None}
    ignored = arguments["targets"] == -1
    assert 0 < ignored.sum() < ignored.size
    with rnnkernels.config(isa=isa):
        forward, grads = run_head(head, functional, arguments)
        assert not forward.loss[ignored].any()
        assert not grads[0][ignored].any()
        assert all(np.isfinite(array).all() for array in named_arrays(grads).values())
        arguments |= {"targets": np.full_like(arguments["targets"], -1), "reduction": "mean"}
        forward, grads = run_head(head, functional, arguments)
    assert np.isnan(forward.loss)
    assert not any(array.any() for array in named_arrays(grads).values())


@each_isa
@pytest.mark.parametrize("head", ["cross_entropy", FUSED])
def test_targets_of_both_integer_types(isa: str, head: str) -> None:
    arguments = CASE.arguments("float32")
    with rnnkernels.config(isa=isa):
        results = []
        for integer in (np.int32, np.int64):
            forward, grads = run_head(
                head, functional, arguments | {"targets": arguments["targets"].astype(integer)}
            )
            results.append([forward.loss.tobytes(), *(a.tobytes() for a in named_arrays(grads).values())])
    assert results[0] == results[1]


@each_isa
def test_an_ignore_index_among_the_classes(isa: str) -> None:
    logits = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    targets = np.arange(20) % 5
    with rnnkernels.config(isa=isa):
        forward = functional.softmax_cross_entropy_forward(logits, targets, ignore_index=3)
        grads = functional.softmax_cross_entropy_backward(None, forward.saved)
    want = reference.softmax_cross_entropy_forward(as_float64(logits), targets, ignore_index=3)
    assert forward.saved.count == 16
    assert_within_budget(forward.loss, want.loss, "forward")
    assert not grads.dlogits[3::5].any()


@pytest.mark.parametrize("dtype", FLOATS)  # of 16 bits the logits between the two are rounded
@each_isa
@pytest.mark.parametrize("case", [CASE, HeadCase((300,), 5, 700, bias=False)], ids=["bias", "no bias"])
def test_the_fused_head_is_the_two_others(dtype: str, isa: str, case: HeadCase) -> None:
    """To the bit in the loss: the same products in the same order, the same softmax."""
    a = case.arguments(dtype) | {"reduction": "none"}
    with rnnkernels.config(isa=isa):
        logits = functional.linear_forward(a["x"], a["w"], a["b"]).y
        apart = functional.softmax_cross_entropy_forward(
            logits, a["targets"], ignore_index=-1, reduction="none"
        )
        fused = functional.linear_cross_entropy_forward(
            a["x"], a["w"], a["b"], a["targets"], ignore_index=-1, reduction="none"
        )
    assert fused.loss.tobytes() == apart.loss.tobytes()
