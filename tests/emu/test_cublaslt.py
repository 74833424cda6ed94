"""Large products by cuBLASLt: what is asked of a stand-in that checks it and multiplies; how it is found."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device_arrays import LENT, OnGpu, device, emulated
from programs import Blas
from test_stepwise import on_emulator

from devicecases import check_heads, check_layers, check_stacks
from kernelcases import DTYPES, KINDS
from rnnkernels import cuda, functional

pytestmark = on_emulator


class State(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("handles", "products", "heuristics", "descriptions")),
        ("refuses", ctypes.c_bool),
    ]  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(Blas().path()))
    loaded.stub_state.restype = ctypes.POINTER(State)
    return loaded


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The stand-in takes every product that it can."""
    with emulated():
        state: State = library().stub_state().contents
        ctypes.memset(ctypes.addressof(state), 0, ctypes.sizeof(state))
        assert cuda._cuda.load_blas(str(Blas().path()), 1) == 130099
        yield state
        assert state.descriptions == 0
        cuda._cuda.unload_blas()
    assert LENT == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(stub: State, kind: str, dtype: str) -> None:
    check_layers(device, kind, dtype)
    assert stub.products >= (10 if dtype == "float16" else 30)  # not gradients in two parts
    assert stub.handles == 1
    assert 0 < stub.heuristics < stub.products  # each product is thought of once


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", ["linear", "linear_cross_entropy"])
def test_heads(stub: State, head: str, dtype: str) -> None:
    check_heads(device, head, dtype)
    assert stub.products > 4


@pytest.mark.parametrize("kind", ["lstm", "gru_reset_before"])
def test_stacks(stub: State, kind: str) -> None:
    check_stacks(device, kind, "float32")
    assert stub.products > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_it_cannot_do_is_done_all_the_same(stub: State, dtype: str) -> None:
    stub.refuses = True
    check_layers(device, "lstm", dtype)
    assert stub.products == 0
    assert stub.heuristics > 10


def test_small_products_stay(stub: State) -> None:
    x, w = np.ones((4, 8), np.float32), np.ones((16, 8), np.float32)
    for least, products in ((4 * 8 * 16 + 64, 0), (4 * 8 * 16, 1)):
        stub.products = 0
        cuda._cuda.load_blas(str(Blas().path()), least)
        y = functional.linear_forward(OnGpu(x), OnGpu(w)).y.array
        assert np.array_equal(y, np.full((4, 16), 8))
        assert stub.products == products


# -- how it is found -----------------------------------------------------------------------------------------


def test_what_is_loaded_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "nvidia" / "cublas" / "lib"
    wheel.mkdir(parents=True)
    for major in (12, 13):
        (wheel / f"libcublasLt.so.{major}").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    library()
    wheels = [str(wheel / f"libcublasLt.so.{major}") for major in (13, 12)]
    system = ["libcublasLt.so.13", "libcublasLt.so.12"]
    assert list(cuda._blas_paths()) == [str(Blas().path()), *wheels, *system]


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    find = cuda._load_blas.__wrapped__
    with emulated():
        monkeypatch.setenv("RNNKERNELS_CUBLASLT", "off")
        assert find() == "RNNKERNELS_CUBLASLT=off"
        monkeypatch.setenv("RNNKERNELS_CUBLASLT", str(Blas().path()))
        assert find() == 130099
        cuda._cuda.unload_blas()
        monkeypatch.setenv("RNNKERNELS_CUBLASLT", "/nowhere/libcublasLt.so")
        with pytest.raises(
            RuntimeError, match=r"^RNNKERNELS_CUBLASLT: /nowhere/libcublasLt\.so: cannot open"
        ):
            find()


def test_a_library_that_does_not_fit_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNKERNELS_CUBLASLT", raising=False)
    find = cuda._load_blas.__wrapped__
    with emulated():
        monkeypatch.setattr(cuda, "_blas_paths", lambda: iter(["libm.so.6", str(Blas().path())]))
        assert find() == 130099
        cuda._cuda.unload_blas()
        monkeypatch.setattr(cuda, "_blas_paths", lambda: iter(["libm.so.6"]))
        assert find() == "cublasLtGetVersion is missing"
