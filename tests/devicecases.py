"""The public functions on arrays of a GPU against the float64 reference: by tests/emu on emulated kernels, by
test_cuda.py on a GPU; problems and budgets are those of the CPU's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np

import test_stack_kernels
from kernelcases import HALVES, Case, HeadCase, assert_close, head_truth, run_head, truth
from rnnkernels import functional, reference
from rnnkernels.testing import CellCase, as_float64
from rnnkernels.types import Array
from test_stack_kernels import Stack


class Device(NamedTuple):
    """The operations of functional on a device, under their signatures: arrays go there, results come back.

    What a forward saved stays there.
    """

    there: Callable[[Array], Any]
    back: Callable[[Any], Array]
    arrays: tuple[type[Any], ...]  # of the device

    def moved(self, value: Any, move: Callable[[Any], Any]) -> Any:
        """The same structure with its arrays moved; lengths are the host's on either side."""
        if isinstance(value, (np.ndarray, *self.arrays)):
            return move(value)
        if isinstance(value, dict):
            return {
                name: item if name == "lengths" else self.moved(item, move) for name, item in value.items()
            }
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.moved(item, move) for item in value))
        if isinstance(value, tuple | list):
            return type(value)(self.moved(item, move) for item in value)
        if is_dataclass(value):
            names = [field.name for field in fields(value) if field.name != "lengths"]
            parts = {name: self.moved(getattr(value, name), move) for name in names}
            return replace(value, **parts)  # type: ignore[type-var]
        return value

    def to(self, value: Any) -> Any:
        return self.moved(value, lambda array: self.there(array) if isinstance(array, np.ndarray) else array)

    def host(self, value: Any) -> Any:
        return self.moved(value, lambda array: array if isinstance(array, np.ndarray) else self.back(array))

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            result = getattr(functional, operation)(*self.to(arguments), **self.to(options))
            if getattr(result, "saved", None) is None:
                return self.host(result)
            return self.host(result._replace(saved=None))._replace(saved=result.saved)

        return run


EMPTY = ((0, 3, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0), (0, 0, 0, 0))
CASES = [
    Case(CellCase(1, 1, 1, 1)),
    Case(CellCase(5, 3, 7, 5, ragged=True)),
    Case(CellCase(4, 5, 16, 16, reverse=True)),
    Case(CellCase(4, 3, 9, 17, ragged=True, reverse=True, bias="sequence")),
    Case(CellCase(4, 5, 9, 8, ids=True, ragged=True), "int32 ids"),
    Case(CellCase(3, 4, 9, 7, ids=True), "table"),
    Case(CellCase(3, 3, 4, 5, ragged=True), "rising"),
    Case(CellCase(3, 3, 4, 5, bias="none", state=False)),
    Case(CellCase(3, 3, 4, 5), "only c0"),
    Case(CellCase(3, 3, 4, 5), "only dh_n"),
    Case(CellCase(3, 3, 4, 5), "no gradient"),
    *(Case(CellCase(*sizes)) for sizes in EMPTY),
]


def check_layers(device: Device, kind: str, dtype: str) -> None:
    for case in CASES:
        want = truth(kind, case, dtype)
        forward = want.problem.forward(device)
        saved = device.host(forward.saved)
        assert_close(forward._replace(saved=saved), want.forward, "forward", case, dtype)
        backward = want.problem.backward(device, forward.saved)
        assert_close(backward, want.gradients(saved), "gradient", case, dtype)


HEADS = [
    HeadCase((5,), 7, 9, ignored=0.3),
    HeadCase((2, 3), 8, 33, bias=False, reduction="sum", ignored=0.3),
    HeadCase((3, 1, 2), 5, 300, reduction="none"),
    HeadCase((0,), 3, 4),
    HeadCase((), 3, 4, reduction="none"),
    HeadCase((2, 3), 0, 4),
]


def check_heads(device: Device, head: str, dtype: str) -> None:
    for case in HEADS:
        arguments, want_forward, want_backward = head_truth(head, case, dtype)
        forward, backward = run_head(head, device, arguments)
        assert_close(forward._replace(saved=None), want_forward._replace(saved=None), "forward", case, dtype)
        assert_close(backward, want_backward, "gradient", case, dtype)
        if head != "linear":
            assert device.host(forward.saved).count == want_forward.saved.count


STACKS = [
    Stack(4, 3, 5, 7, layers=3, ragged=True, dropout=0.4),
    Stack(3, 4, 6, 8, directions=1, ids=True, ragged=True, state=False),
]


def check_stacks(device: Device, kind: str, dtype: str) -> None:
    for stack in STACKS:
        arguments, wide, want_forward, want_backward = test_stack_kernels.truth(kind, stack, dtype)
        forward, backward = test_stack_kernels.run(device, kind, arguments)
        results, wanted = forward._replace(saved=None), want_forward._replace(saved=None)
        test_stack_kernels.assert_close(results, wanted, "forward", stack, dtype)
        if dtype in HALVES:
            continue
        if kind == "rnn_relu":
            saved = as_float64(device.host(forward.saved))
            want_backward = reference.stack_backward(wide["dy"], saved, wide["dhx"])
        test_stack_kernels.assert_close(backward, want_backward, "gradient", stack, dtype)
