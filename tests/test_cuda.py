"""Arrays of a GPU: what is said of them where there are no kernels or no GPU; and on a GPU, with PyTorch, the
public functions against the reference (`pytest -m gpu`, which a machine without one does not run).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkernels
from devicecases import Device, check_heads, check_layers, check_stacks
from kernelcases import DTYPES, KINDS
from rnnkernels import cuda
from rnnkernels.cli import main
from rnnkernels.types import Array

BUILT = importlib.util.find_spec("rnnkernels._cuda") is not None
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


class OnGpu:
    """As much of an array as is looked at before its library is asked to lend it."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Interface:
    __cuda_array_interface__ = {"data": (4096, False)}  # noqa: RUF012


class OfJax(OnGpu):
    pass


OfJax.__module__ = "jaxlib.xla_extension"


class Unlendable:
    def __dlpack_device__(self) -> tuple[int, int]:
        raise BufferError("no device")


def test_whether_and_why_not() -> None:
    facts = cuda.info()
    assert facts["available"] is cuda.is_available() is (cuda.why_not() is None)
    assert facts["why_not"] == cuda.why_not()
    assert bool(facts["targets"]) is bool(facts["runtime"]) is BUILT
    assert bool(facts["devices"]) is cuda.is_available()
    if not BUILT:
        assert "built without CUDA kernels; RNNKERNELS_CUDA=on" in str(cuda.why_not())
    elif facts["driver"] is None:
        assert cuda.why_not() == "no NVIDIA driver was found"


@pytest.mark.skipif(cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("array", [OnGpu(), Interface()], ids=["DLPack", "interface"])
def test_an_array_of_a_gpu_where_there_is_none(array: Any) -> None:
    w = np.zeros((4, 1), np.float32)
    with pytest.raises(RuntimeError) as caught:
        rnnkernels.lstm_forward(array, w, w)
    assert str(caught.value) == f"x: {type(array).__name__} lies on a GPU, but {cuda.why_not()}"


def test_jax_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^x: expected an array of PyTorch or CuPy, got OfJax of JAX$"):
        rnnkernels.linear_forward(OfJax(), OfJax())


@pytest.mark.parametrize("x", [None, [1.0], Unlendable(), np.float32(1)], ids=lambda x: type(x).__name__)
def test_what_is_no_array_of_a_gpu(x: Any) -> None:
    with pytest.raises(TypeError, match=f"^x: expected a NumPy array, got .*{type(x).__name__}$"):
        rnnkernels.linear_forward(x, np.zeros((1, 1), np.float32))


def test_matmul_is_checked() -> None:
    for value, error in (("float16", ValueError), (32, TypeError)):
        with pytest.raises(error, match=r"^matmul: expected 'float32' or 'tf32', got "):
            rnnkernels.config(matmul=value)  # type: ignore[arg-type]
    with rnnkernels.config(matmul="tf32"):
        assert rnnkernels.options.matmul() == "tf32"
        with rnnkernels.config(num_threads=1), rnnkernels.config(matmul="float32"):
            assert rnnkernels.options.matmul() == "float32"
        assert rnnkernels.options.matmul() == "tf32"
    assert rnnkernels.options.matmul() == "float32"


def test_matmul_changes_nothing_on_the_cpu() -> None:
    x, w = np.full((3, 5), 1 / 3, np.float32), np.full((2, 5), 1 / 7, np.float32)
    y = rnnkernels.linear_forward(x, w).y
    with rnnkernels.config(matmul="tf32"):
        assert np.array_equal(rnnkernels.linear_forward(x, w).y, y)


def test_the_command_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    said = cuda.why_not() or cuda.info()["devices"][0]["name"]
    assert any(line.startswith("cuda ") and said in line for line in capsys.readouterr().out.splitlines())


# -- on a GPU ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Device:
    torch = pytest.importorskip("torch")
    assert cuda.is_available(), cuda.why_not()
    assert torch.cuda.is_available()

    def there(array: Array) -> Any:
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()
        return torch.from_numpy(array).cuda()

    def back(tensor: Any) -> Array:
        tensor = tensor.cpu()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        array: Array = tensor.numpy()
        return array

    return Device(there, back, (torch.Tensor,))


@pytest.mark.gpu
@each_kind
@each_dtype
def test_layers_on_a_gpu(device: Device, kind: str, dtype: str) -> None:
    check_layers(device, kind, dtype)


@pytest.mark.gpu
@each_dtype
@pytest.mark.parametrize("head", ["linear", "cross_entropy", "linear_cross_entropy"])
def test_heads_on_a_gpu(device: Device, head: str, dtype: str) -> None:
    check_heads(device, head, dtype)


@pytest.mark.gpu
@each_kind
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stacks_on_a_gpu(device: Device, kind: str, dtype: str) -> None:
    check_stacks(device, kind, dtype)


@pytest.mark.gpu
def test_a_graph_of_torch_replays(device: Device) -> None:
    """Captured once, lengths and all, and replayed on other inputs."""
    import torch

    rng = np.random.default_rng(0)
    x = torch.zeros(6, 3, 5, device="cuda")
    w_ih, w_hh = (device.to(rng.uniform(-0.3, 0.3, (28, n)).astype(np.float32)) for n in (5, 7))
    graph = torch.cuda.CUDAGraph()
    rnnkernels.lstm_forward(x, w_ih, w_hh, lengths=[6, 2, 0])  # before capture, as PyTorch asks
    with torch.cuda.graph(graph):
        y = rnnkernels.lstm_forward(x, w_ih, w_hh, lengths=[6, 2, 0]).y
    for _ in range(3):
        x.copy_(torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32)))
        graph.replay()
        want = rnnkernels.lstm_forward(x, w_ih, w_hh, lengths=[6, 2, 0]).y
        assert torch.equal(y, want)
        assert want.abs().sum() > 0
