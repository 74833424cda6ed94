"""The public functions on arrays of a GPU: the path of a user's call, bindings included, emulated kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from device_arrays import LENT, Graph, Interface, OnGpu, OnGpuBefore, device, emulated, to_gpu
from test_stepwise import on_emulator

import rnnkernels
from devicecases import check_heads, check_layers, check_stacks
from kernelcases import DTYPES, KINDS, Case, assert_close, truth
from rnnkernels import cuda, functional, reference
from rnnkernels.testing import CellCase, as_float64, assert_within_budget, named_arrays, relative_error
from test_stack_kernels import Stack, arrays_of, run

pytestmark = on_emulator
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
to_host = device.host


@pytest.fixture(autouse=True)
def _on_the_emulator() -> Iterator[None]:
    with emulated():
        yield
    assert LENT == {}


@each_kind
@each_dtype
def test_layers(kind: str, dtype: str) -> None:
    check_layers(device, kind, dtype)


@each_dtype
@pytest.mark.parametrize("head", ["linear", "cross_entropy", "linear_cross_entropy"])
def test_heads(head: str, dtype: str) -> None:
    check_heads(device, head, dtype)


@each_kind
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stacks(kind: str, dtype: str) -> None:
    check_stacks(device, kind, dtype)


# -- arrays of every kind ----------------------------------------------------------------------------------


def problem(dtype: str = "float32") -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    want = truth("lstm", Case(CellCase(4, 3, 5, 7, ragged=True)), dtype)
    return want.problem.arguments, want.problem.cotangents, want.forward, want.backward


@pytest.mark.parametrize("kind", [OnGpu, OnGpuBefore])
def test_both_forms_of_dlpack(kind: type[Any]) -> None:
    arguments, cotangents, want_forward, want_backward = problem()
    forward = functional.lstm_forward(**to_gpu(arguments, kind))
    backward = functional.lstm_backward(saved=forward.saved, **to_gpu(cotangents, kind))
    assert_close(to_host(forward), want_forward, "forward", kind, "float32")
    assert_close(to_host(backward), want_backward, "gradient", kind, "float32")


def test_strided_arguments_and_results() -> None:
    arguments, cotangents, want_forward, want_backward = problem()

    def strided(array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            return array
        wide = np.full((*array.shape[::-1], 2), np.nan, np.float32)
        view = wide[..., 1].T
        view[...] = array
        return view

    apart = {name: strided(array) for name, array in arguments.items()}
    out = {name: OnGpu(strided(getattr(want_forward, name))) for name in ("y", "h_n", "c_n")}
    forward = functional.lstm_forward(**to_gpu(apart), out=out)
    assert all(getattr(forward, name) is array for name, array in out.items())
    assert_close(to_host(forward), want_forward, "forward", "strided", "float32")
    given = {name: OnGpu(strided(array)) for name, array in named_arrays(want_backward).items()}
    added = functional.lstm_backward(saved=forward.saved, **to_gpu(cotangents), out=given, accumulate=True)
    twice = want_backward._replace(**{name: 2 * getattr(want_backward, name) for name in given})
    assert_close(to_host(added), twice, "gradient", "strided", "float32")


def test_arrays_of_nobody() -> None:
    """All results are the caller's; memory of the call is the stream's."""
    arguments, _, want, _ = problem()
    shapes = {"y": want.y.shape, "h_n": want.h_n.shape, "c_n": want.c_n.shape}
    out = {name: Interface(np.full(shape, np.nan, "f4")) for name, shape in shapes.items()}
    given = to_gpu(arguments, Interface)
    forward = functional.lstm_forward(**given, out=out, save=False)
    assert_close(to_host(forward), want._replace(saved=None), "forward", "interface", "float32")
    with pytest.raises(TypeError, match="nobody is known to make arrays like x; give all results as out="):
        functional.lstm_forward(**given, save=False)
    with pytest.raises(TypeError, match="with save=False where there is save"):
        functional.lstm_forward(**given, out=out)


def test_tf32_is_a_choice() -> None:
    arguments, _, want, _ = problem()
    exact = to_host(functional.lstm_forward(**to_gpu(arguments))).y
    with rnnkernels.config(matmul="tf32"):
        rounded = to_host(functional.lstm_forward(**to_gpu(arguments))).y
    assert_within_budget(exact, want.y, "forward")
    assert not np.array_equal(exact, rounded)
    assert relative_error(rounded, want.y) < 2 * 2.0**-10


def test_ids_and_targets_out_of_range_give_nan() -> None:
    """Nobody has looked at them before: that would wait for the device."""
    arguments = truth("gru", Case(CellCase(4, 3, 5, 7, ids=True)), "float32").problem.arguments
    x = arguments["x"].copy()
    x[1, 0], x[2, 1] = 5, -1
    y = device.gru_forward(**(arguments | {"x": x})).y
    good = device.gru_forward(**arguments).y
    bad = np.zeros((4, 3), bool)
    bad[1:, 0] = bad[2:, 1] = True
    assert np.isnan(y[bad]).all()
    assert np.array_equal(y[~bad], good[~bad])

    logits, targets = np.ones((3, 4), np.float32), np.array([0, 4, -100])
    forward = device.softmax_cross_entropy_forward(logits, targets, reduction="none")
    assert np.isnan(forward.loss).tolist() == [False, True, False]
    gradient = device.softmax_cross_entropy_backward(None, forward.saved).dlogits
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True, False]
    assert not np.isnan(gradient[[0, 2]]).any()


def test_no_input_is_written_to() -> None:
    arguments, cotangents, _, _ = problem()
    given = {name: a for name, a in (arguments | cotangents).items() if isinstance(a, np.ndarray)}
    before = {name: array.copy() for name, array in given.items()}
    forward = device.lstm_forward(**arguments)
    device.lstm_backward(saved=forward.saved, **cotangents)
    for name, array in before.items():
        assert given[name].tobytes() == array.tobytes(), name


# -- graphs ------------------------------------------------------------------------------------------------


@each_kind
def test_a_graph_replays(kind: str) -> None:
    """Three times on one workspace with other inputs, and once after a launch that was aborted on the way."""
    stack = Stack(3, 4, 5, 7, ragged=True, dropout=0.3)
    arguments = stack.arguments(kind, "float32")
    there = to_gpu(arguments)
    with Graph() as graph:
        forward, backward = run(functional, kind, there)
    results = arrays_of(*(to_host(result) for result in (forward._replace(saved=None), backward)))
    assert len(graph) > 60
    rng = np.random.default_rng(0)
    for turns in (-1, -1, -1, 40, 400, 4000, -1):
        there["x"].array[...] = arguments["x"] + rng.standard_normal(arguments["x"].shape)
        for result in results:
            result[...] = np.nan
        status = graph.replay(turns)
        assert (status != 0) is (turns >= 0)
        if turns < 0:
            want = run(reference, kind, as_float64(arguments | {"x": there["x"].array}))
            for got, expected in zip(results, arrays_of(want[0]._replace(saved=None), want[1]), strict=True):
                assert relative_error(got, expected) < 1e-4
    graph.destroy()


# -- errors ------------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    arguments, _, want, _ = problem()
    given = to_gpu(arguments)

    def refuses(error: type[Exception], text: str, **changes: Any) -> None:
        with pytest.raises(error) as caught:
            functional.lstm_forward(**(given | changes))
        assert str(caught.value) == text

    w_hh = arguments["w_hh"]
    refuses(TypeError, "w_hh: expected an array of cuda:0, got numpy.ndarray", w_hh=w_hh)
    refuses(TypeError, "w_hh: expected an array of cuda:0, got list", w_hh=[1.0])
    refuses(TypeError, "w_hh: expected float32 like x, got float64", w_hh=OnGpu(w_hh.astype("f8")))
    refuses(TypeError, "w_hh: expected float32 like x, got int32", w_hh=OnGpu(w_hh.astype("i4")))
    refuses(ValueError, "w_hh: expected (4*H, H) = (28, 7), got (28, 6)", w_hh=OnGpu(w_hh[:, :6]))
    refuses(ValueError, "lengths: expected (B) = (3,), got (2,)", lengths=[1, 2])
    refuses(ValueError, "lengths: expected values in [0, T] = [0, 4], got 5 at index 1", lengths=[1, 5, 2])
    of_device = OnGpu(np.array([1, 2, 3]))
    refuses(TypeError, "lengths: expected a sequence of integers, got OnGpu", lengths=of_device)

    other = OnGpu(w_hh)
    other.device = 1
    refuses(TypeError, "w_hh: expected an array of cuda:0, got OnGpu of cuda:1", w_hh=other)
    unaligned = np.frombuffer(bytes(w_hh.nbytes + 1), np.uint8)[1:].view("f4").reshape(w_hh.shape)
    refuses(
        ValueError,
        "w_hh: expected elements at multiples of their size, got an array of float32 at other addresses",
        w_hh=Interface(unaligned),
    )
    refuses(
        TypeError,
        "w_hh: expected an array without a mask, got Interface",
        w_hh=Interface(w_hh, mask=given["x"]),
    )

    y = np.zeros(want.y.shape, "f4")
    fixed = y.copy()
    fixed.flags.writeable = False
    refuses(ValueError, "out['y']: expected a writeable array, got a read-only one", out={"y": OnGpu(fixed)})
    refuses(TypeError, "out['y']: expected an array of cuda:0, got numpy.ndarray", out={"y": y})
    broadcast = np.lib.stride_tricks.as_strided(y, y.shape, (0, *y.strides[1:]))
    own, h_n = "expected memory that nothing else of the call uses, got an array that overlaps", OnGpu(y[0])
    refuses(ValueError, f"out['y']: {own} itself", out={"y": OnGpu(broadcast)})
    refuses(ValueError, f"out['h_n']: {own} out['y']", out={"y": OnGpu(y), "h_n": h_n})
    refuses(ValueError, f"out['h_n']: {own} h0", h0=h_n, out={"h_n": h_n})


def test_a_library_that_does_not_lend() -> None:
    class Private(OnGpu):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("it requires grad")

    arguments = to_gpu(problem()[0]) | {"w_ih": Private(problem()[0]["w_ih"])}
    with pytest.raises(TypeError) as caught:
        functional.lstm_forward(**arguments)
    what = "w_ih: expected an array that its library lends, got Private: it requires grad"
    assert str(caught.value) == what


def test_neighbouring_slices_are_apart() -> None:
    arguments, _, want, _ = problem()
    both = np.zeros((*want.y.shape[:2], 14), "f4")
    functional.lstm_forward(**to_gpu(arguments), out={"y": OnGpu(both[..., 7:])})
    assert not both[..., :7].any()
    assert_within_budget(both[..., 7:], want.y, "forward")


def test_packs_are_of_the_host() -> None:
    arguments, _, _, _ = problem()
    weights = tuple(to_gpu([arguments[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]))
    with pytest.raises(TypeError, match=r"^params\[0\]\[0\]\.w_ih: expected a NumPy array, got OnGpu$"):
        rnnkernels.pack("lstm", ((weights,),))


def test_info() -> None:
    facts = cuda.info()
    assert facts["available"]
    assert facts["why_not"] is None
    assert facts["devices"] == [
        {"name": "emulator", "compute_capability": (9, 0), "multiprocessors": 8, "memory": 2**30}
    ]
