"""What cuDNN takes through PyTorch: LSTM, GRU and RNN layers on a GPU, in time a step, and its kernels.

``python cudnn.py`` prints one JSON object a line. ``us_per_step`` is the median over rounds of a whole call
(CUDA events around it), divided by T: ``inference`` without gradients, ``forward`` with what backward needs,
``training`` forward and backward to x and all weights. ``graph`` is inference replayed from a CUDA graph: the
rest is launches.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

#: Storage dtype, and whether float32 products may be rounded to TF32: always said, never left to a default.
DTYPES = {
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}
CELLS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def median_us(run: Callable[[], object], rounds: int) -> float:
    times = []
    for round_ in range(rounds + 2):  # the first two warm up
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if round_ >= 2:
            times.append(start.elapsed_time(stop) * 1000)
    return statistics.median(times)


def kernels_of(run: Callable[[], object]) -> dict[str, int]:
    """The names of the kernels that a call launches, shortened, and how often."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    names = Counter(event.name[:70] for event in profile.events() if event.device_type.name == "CUDA")
    return dict(names.most_common(4))


def graph_of(run: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measure(
    cell: str, dtype: str, steps: int, batch: int, hidden: int, details: bool, rounds: int = 5
) -> None:
    rounds = 5
    torch_dtype, tf32 = DTYPES[dtype]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    layer = CELLS[cell](hidden, hidden, device="cuda", dtype=torch_dtype)
    x = torch.randn(steps, batch, hidden, device="cuda", dtype=torch_dtype, requires_grad=True)
    dy = torch.randn(steps, batch, hidden, device="cuda", dtype=torch_dtype)

    def inference() -> None:
        with torch.no_grad():
            layer(x)

    def forward() -> None:
        layer(x)

    def training() -> None:
        layer(x)[0].backward(dy)

    times: dict[str, Any] = {
        name: round(median_us(run, rounds) / steps, 3)
        for name, run in [("inference", inference), ("forward", forward), ("training", training)]
    }
    if details:
        times["graph"] = round(median_us(graph_of(inference), rounds) / steps, 3)
        times["kernels"] = kernels_of(inference)
    say(probe="cudnn", cell=cell, dtype=dtype, steps=steps, batch=batch, hidden=hidden, us_per_step=times)


def grid() -> Iterator[tuple[str, str, int, int, int, bool]]:
    """What to measure, the most wanted first, since time on a GPU may run out."""
    for dtype, cell in itertools.product(DTYPES, ("lstm", "gru")):
        yield cell, dtype, 1024, 16, 768, True  # the shape that FlashRNN's authors published
    for hidden, batch in itertools.product((256, 512, 1024, 128, 768, 2048), (16, 64, 1, 256)):
        for cell, dtype in itertools.product(("lstm", "gru"), DTYPES):
            yield cell, dtype, 256, batch, hidden, batch == 16
    for hidden, batch, dtype in itertools.product((256, 1024), (16, 64), ("float16", "float32")):
        yield "rnn", dtype, 256, batch, hidden, False


def ceilings() -> None:
    """What the card reaches: a large copy, bytes read and written, and a large product of random numbers."""
    a = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    say(probe="copy", gb_per_s=round(4 * (1 << 30) / median_us(lambda: b.copy_(a), 5) / 1e3))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    say(probe="matmul", dtype="bfloat16", tflops=round(2 * 8192**3 / median_us(lambda: a @ b, 5) / 1e6))
    a, b = (torch.randn(4096, 4096, device="cuda") for _ in range(2))
    for tf32 in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        name = "tf32" if tf32 else "float32"
        say(probe="matmul", dtype=name, tflops=round(2 * 4096**3 / median_us(lambda: a @ b, 5) / 1e6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=240, help="start no shape after this many seconds")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    say(
        probe="versions",
        torch=torch.__version__,
        cudnn=torch.backends.cudnn.version(),
        cuda=torch.version.cuda,
        device=torch.cuda.get_device_name(),
    )
    ceilings()
    for shape in grid():
        if time.monotonic() > end:
            print("out of time before", shape, file=sys.stderr)
            break
        try:
            measure(*shape)
        except RuntimeError as error:  # a shape that a library refuses is a finding too
            say(probe="cudnn", shape=shape, error=str(error).splitlines()[0])


if __name__ == "__main__":
    main()
