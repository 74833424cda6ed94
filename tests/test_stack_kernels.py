"""Stacks and packs on every instruction set: against the reference in float64, and bit for bit.

What a stack means is in test_stack.py; here are the sizes at which kernels could go wrong, threads, and the
promises about bits: of dropout, of packs, of steps, of one layer in one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

import rnnkernels
from kernelcases import DTYPES, HALVES, ISAS, KINDS, VECTOR_ISAS, isas_of_the_same_bits, thinned
from rnnkernels import functional, reference
from rnnkernels.testing import CELL_KINDS, Kind, as_float64, dtype_of, share_of_budget
from rnnkernels.types import Array

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_isa = pytest.mark.parametrize("isa", ISAS)

KEY = 0xFEDCBA9876543210


@dataclass(frozen=True)
class Stack:
    """A problem for a stack of any kind; padding holds NaN."""

    T: int
    B: int
    I: int
    H: int
    layers: int = 2
    directions: int = 2
    ragged: bool = False
    ids: bool = False
    dropout: float = 0.0
    state: bool = True

    def __str__(self) -> str:
        marks = [name for name in ("ragged", "ids") if getattr(self, name)]
        sizes = f"T={self.T} B={self.B} I={self.I} H={self.H} {self.layers}x{self.directions}"
        return " ".join([sizes, *marks, *([f"p={self.dropout}"] if self.dropout else [])])

    def arguments(self, kind: str, dtype: str) -> dict[str, Any]:
        """Of forward, by name, and dy and dhx of backward."""
        T, B, I, H, D = self.T, self.B, self.I, self.H, self.directions
        rng = np.random.default_rng(2)

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(dtype)

        def weight(*shape: int) -> Array:
            return np.asarray(rng.uniform(-1, 1, shape) / np.sqrt(H), dtype)

        def states() -> Any:
            h = normal(self.layers * D, B, H)
            return (h, normal(*h.shape).astype(dtype_of("c", dtype))) if kind == "lstm" else h

        rows = CELL_KINDS[kind][2] * H
        x, dy = rng.integers(I, size=(T, B)) if self.ids else normal(T, B, I), normal(T, B, D * H)
        lengths = None
        if self.ragged:
            lengths = rng.integers(T + 1, size=B)
            lengths[0], lengths[-1] = 0, T
            padding = np.arange(T)[:, None] >= lengths
            x[padding], dy[padding] = -1 if self.ids else np.nan, np.nan
        return {
            "x": x,
            "params": [
                [
                    (weight(rows, D * H if layer else I), weight(rows, H), weight(rows), weight(rows))
                    for _ in range(D)
                ]
                for layer in range(self.layers)
            ],
            "hx": states() if self.state else None,
            "lengths": lengths,
            "dropout": self.dropout,
            "dy": dy,
            "dhx": states() if self.state else None,
        }


def run(ops: Any, kind: str, a: dict[str, Any], **options: Any) -> tuple[Any, Any]:
    options = {"lengths": a["lengths"], "dropout": a["dropout"], "rng": KEY} | options
    forward = ops.stack_forward(kind, a["x"], a["params"], a["hx"], **options)
    return forward, ops.stack_backward(a["dy"], forward.saved, a["dhx"])


def arrays_of(*results: Any) -> list[Array]:
    """All arrays of nested results, in order; what is saved is not one of them."""
    if len(results) == 1 and isinstance(results[0], np.ndarray):
        return [results[0]]
    parts = [part for result in results for part in (result if isinstance(result, tuple | list) else [])]
    return [array for part in parts for array in arrays_of(part)]


def bits_of(*results: Any) -> list[bytes]:
    return [array.tobytes() for array in arrays_of(*results)]


def dtypes_of(kind: str, dtype: str) -> set[Any]:
    """Of what a stack returns: c has its own."""
    return {np.dtype(dtype)} | ({dtype_of("c", dtype)} if kind == "lstm" else set())


def assert_close(got: Any, want: Any, kind: Kind, stack: Stack, dtype: str) -> None:
    """Of 16 bits each layer may lose a budget, as its x was rounded."""
    results, wanted = arrays_of(got), arrays_of(want)
    assert len(results) == len(wanted) > 0, stack
    limit = stack.layers if dtype in HALVES else 1
    for i, (result, truth) in enumerate(zip(results, wanted, strict=True)):
        assert share_of_budget(result, truth, dtype=dtype, kind=kind) <= limit, f"array {i} at {stack}"


STACKS = [
    Stack(1, 1, 1, 1, layers=3),
    Stack(5, 3, 7, 5, layers=3, directions=1, ragged=True),
    Stack(4, 7, 3, 9, ragged=True, dropout=0.3),
    Stack(3, 6, 17, 16, layers=1),
    Stack(6, 5, 16, 17, layers=3, dropout=0.5, state=False),
    Stack(70, 4, 5, 8, ragged=True, dropout=0.1),
    Stack(5, 13, 40, 33, ids=True, ragged=True),
    Stack(4, 9, 20, 65, layers=4, directions=1, ids=True, dropout=0.9),
    Stack(5, 11, 8, 120, ragged=True, dropout=0.25),
]


@cache
def truth(kind: str, stack: Stack, dtype: str) -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    arguments = stack.arguments(kind, dtype)
    wide = as_float64(arguments)
    return arguments, wide, *run(reference, kind, wide)


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize("stack", thinned(STACKS, 2), ids=str)
def test_against_the_reference(kind: str, dtype: str, isa: str, stack: Stack) -> None:
    arguments, wide, want_forward, want_backward = truth(kind, stack, dtype)
    with rnnkernels.config(isa=isa):
        forward, backward = run(functional, kind, arguments)
    assert {array.dtype for array in arrays_of(forward, backward)} == dtypes_of(kind, dtype)
    assert forward.y.dtype == dtype
    assert_close(forward, want_forward, "forward", stack, dtype)
    if dtype in HALVES:  # gradients are rounded between the layers, too: test_half.py
        return
    if kind == "rnn_relu":  # its corner: see kernelcases.py
        want_backward = reference.stack_backward(wide["dy"], as_float64(forward.saved), wide["dhx"])
    assert_close(backward, want_backward, "gradient", stack, dtype)


@each_kind
@each_dtype
@pytest.mark.parametrize("stack", STACKS[-3:], ids=str)
def test_the_bits_do_not_depend_on_threads(kind: str, dtype: str, stack: Stack) -> None:
    arguments = stack.arguments(kind, dtype)
    with rnnkernels.config(num_threads=1):
        alone = bits_of(*run(functional, kind, arguments))
    for num_threads in (2, 3, 5):
        with rnnkernels.config(num_threads=num_threads):
            assert bits_of(*run(functional, kind, arguments)) == alone, num_threads


@pytest.mark.skipif(len(VECTOR_ISAS) < 2, reason="fewer than two vector instruction sets here")
@each_kind
@each_dtype
@pytest.mark.parametrize("stack", thinned(STACKS, 3), ids=str)
def test_the_bits_do_not_depend_on_the_vector_isa(kind: str, dtype: str, stack: Stack) -> None:
    arguments = stack.arguments(kind, dtype)
    bits = []
    for isa in isas_of_the_same_bits(dtype):
        with rnnkernels.config(isa=isa):
            bits.append(bits_of(*run(functional, kind, arguments)))
    assert all(other == bits[0] for other in bits[1:])


@each_kind
@each_isa
@pytest.mark.parametrize("ragged", [False, True])
def test_a_sequence_alone_and_in_a_batch(kind: str, isa: str, ragged: bool) -> None:
    """Without dropout, whose mask follows from an element's place in the batch."""
    a = Stack(6, 7, 5, 19, ragged=ragged).arguments(kind, "float32")

    def results(b: Any) -> list[Array]:
        part = a | {"x": a["x"][:, b], "dy": a["dy"][:, b]}
        if ragged:
            part["lengths"] = a["lengths"][b]
        for name in ("hx", "dhx"):
            part[name] = tuple(s[:, b] for s in a[name]) if kind == "lstm" else a[name][:, b]
        forward, backward = run(functional, kind, part)
        return arrays_of((forward.y, forward.hx, backward.dx, backward.dhx))  # (T or L*D, b, ...)

    with rnnkernels.config(isa=isa):
        together = results(slice(None))
        for b in range(7):
            for i, array in enumerate(results([b])):
                assert array.tobytes() == together[i][:, [b]].tobytes(), i


@each_kind
@each_dtype
@each_isa
def test_a_layer_is_the_stack_of_one(kind: str, dtype: str, isa: str) -> None:
    a = Stack(6, 7, 5, 19, layers=1, directions=1, ragged=True).arguments(kind, dtype)
    name, options, _ = CELL_KINDS[kind]
    states = a["hx"] if kind == "lstm" else (a["hx"],)
    dstates = a["dhx"] if kind == "lstm" else (a["dhx"],)
    with rnnkernels.config(isa=isa):
        (y, hx, _), grads = run(functional, kind, a)
        of_one = getattr(functional, f"{name}_forward")(
            a["x"], *a["params"][0][0], *(s[0] for s in states), lengths=a["lengths"], **options
        )
        of_back = getattr(functional, f"{name}_backward")(a["dy"], of_one.saved, *(s[0] for s in dstates))
    assert bits_of((y, hx)) == bits_of(of_one[:-1])
    stacked = (grads.dx, *grads.params[0][0], grads.dhx)
    assert bits_of(stacked) == bits_of([part for part in of_back if part is not None])


@each_dtype
@each_isa
@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 3, 0.999, 1.0])
def test_dropout_is_the_reference_s_to_the_bit(dtype: str, isa: str, p: float) -> None:
    """Of the output of each layer but the last, the mask that NumPy draws from the same key."""
    a = Stack(7, 5, 3, 9, layers=3, dropout=p).arguments("gru", dtype)
    with rnnkernels.config(isa=isa):
        forward, _ = run(functional, "gru", a)
    for layer in range(2):
        computed_in = dtype_of("c", dtype)
        y = np.concatenate([saved.h for saved in forward.saved.layers[layer]], axis=-1).astype(computed_in)
        one = computed_in.type(1)
        scale = one / (one - computed_in.type(p)) if p < 1 else one
        kept = reference.dropout_mask(KEY, layer, y.shape, p)
        expected = np.where(kept, y * scale, computed_in.type(0)).astype(dtype)
        for saved in forward.saved.layers[layer + 1]:
            assert saved.x.tobytes() == expected.tobytes()


@each_kind
@each_dtype
@each_isa
@pytest.mark.parametrize(
    "stack",
    [
        Stack(9, 1, 7, 33, directions=1),
        Stack(6, 5, 9, 17, layers=3, directions=1, ids=True),
        Stack(5, 3, 3, 100, layers=1, directions=1, state=False),
    ],
    ids=str,
)
def test_packs_and_steps_give_the_bits_of_forward(kind: str, dtype: str, isa: str, stack: Stack) -> None:
    a = stack.arguments(kind, dtype)
    with rnnkernels.config(isa=isa):
        y, hx, _ = functional.stack_forward(kind, a["x"], a["params"], a["hx"])
        pack = functional.pack(kind, a["params"])
        assert bits_of(pack.forward(a["x"], a["hx"])) == bits_of((y, hx))
        state = a["hx"]
        for x_t, y_t in zip(a["x"], y, strict=True):
            stepped, state = pack.step(x_t, state)
            assert stepped.tobytes() == y_t.tobytes()
        assert bits_of((state,)) == bits_of((hx,))


@each_kind
@each_isa
def test_packs_of_two_directions_and_ragged_batches(kind: str, isa: str) -> None:
    for stack in (Stack(6, 7, 9, 19, ragged=True), Stack(5, 4, 30, 9, ids=True, ragged=True)):
        a = stack.arguments(kind, "float32")
        with rnnkernels.config(isa=isa):
            y, hx, _ = functional.stack_forward(kind, a["x"], a["params"], a["hx"], lengths=a["lengths"])
            packed = functional.pack(kind, a["params"]).forward(a["x"], a["hx"], lengths=a["lengths"])
        assert bits_of(packed) == bits_of((y, hx))


@each_kind
@pytest.mark.skipif(len(ISAS) < 2, reason="one instruction set here")
def test_a_pack_runs_on_what_it_was_packed_for(kind: str) -> None:
    a = Stack(5, 3, 7, 20, directions=1).arguments(kind, "float32")
    with rnnkernels.config(isa=ISAS[-1]):
        pack = functional.pack(kind, a["params"])
        expected = bits_of(pack.forward(a["x"], a["hx"]))
    with rnnkernels.config(isa=ISAS[0]):
        assert bits_of(pack.forward(a["x"], a["hx"])) == expected


@each_kind
@each_isa
def test_the_front_of_a_sequence_is_the_same_in_a_longer_one(kind: str, isa: str) -> None:
    """Across the borders of the chunks in which the input is projected."""
    a = Stack(300, 2, 3, 9, layers=1, directions=1).arguments(kind, "float32")
    with rnnkernels.config(isa=isa):
        whole = functional.stack_forward(kind, a["x"], a["params"], a["hx"]).y
        for T in (1, 63, 64, 65, 200):
            front = functional.stack_forward(kind, a["x"][:T], a["params"], a["hx"]).y
            assert front.tobytes() == whole[:T].tobytes(), T
