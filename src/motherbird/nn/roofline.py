"""The roofline: the highest matmul throughput of this machine for the shapes of a model.

It is the number of floating-point operations of a layer's four matmuls, divided by the sum of the
shortest times that they take at 4,096 rows in a dtype, with any of the known kernels.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..core.arguments import check_threads
from ..core.config import EncoderConfig
from ..core.flops import matmul_shapes

ROWS = 4096
CHUNK = 2048  # rows per call: malloc keeps no block above 32 MB, and new pages cost 25%
DTYPES = ("float32", "bfloat16", "int8")
TOO_SLOW = 5.0  # seconds of one matmul above which a kernel is not measured
_PROBE = 64  # rows with which that is estimated


def rooflines(
    config: EncoderConfig, threads: int, seconds: float, dtypes: Sequence[str] = DTYPES
) -> dict[str, float | None]:
    """Return `roofline` for every dtype, with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(check_threads(threads))
    try:
        return {dtype: roofline(config, dtype, seconds) for dtype in dtypes}
    finally:
        torch.set_num_threads(before)


def roofline(config: EncoderConfig, dtype: str, seconds: float) -> float | None:
    """Return TFLOPS of a layer's four matmuls at 4,096 rows, each with its fastest kernel.

    Each kernel is repeated for ``seconds``, and at least three times. None if no kernel of the
    dtype can be used on this machine.
    """
    total_flops, total_seconds = 0, 0.0
    for outputs, inputs in matmul_shapes(config):
        times = [_best_time(kernel, dtype, outputs, inputs, seconds) for kernel in KERNELS[dtype]]
        usable = [t for t in times if t is not None]
        if not usable:
            return None
        total_flops += 2 * ROWS * outputs * inputs
        total_seconds += min(usable)
    return total_flops / total_seconds / 1e12


# A kernel converts a weight (outputs, inputs) and rows (rows, inputs) to its format, and returns a
# function that computes their product, which is what is timed. int8 kernels get float32.
Kernel = Callable[[Tensor, Tensor], Callable[[], object]]


def _best_time(
    kernel: Kernel, dtype: str, outputs: int, inputs: int, seconds: float
) -> float | None:
    """Return the shortest time of a matmul in seconds; None if the kernel fails or is too slow."""
    try:
        with torch.inference_mode():
            of = torch.bfloat16 if dtype == "bfloat16" else torch.float32
            weight, x = (torch.randn(rows, inputs, dtype=of) for rows in (outputs, ROWS))
            probe = kernel(weight, x[:_PROBE])
            probe()
            if _time(probe) * ROWS / _PROBE > TOO_SLOW:
                return None
            matmuls = [kernel(weight, rows) for rows in x.split(CHUNK)]

            def run() -> None:
                for matmul in matmuls:
                    matmul()

            run()
            times: list[float] = []
            while len(times) < 3 or sum(times) < seconds:
                times.append(_time(run))
            return min(times)
    except (RuntimeError, AttributeError):  # not supported by this CPU or torch
        return None


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _linear(weight: Tensor, x: Tensor) -> Callable[[], object]:
    return lambda: linear(x, weight)


def _packed(weight: Tensor, x: Tensor) -> Callable[[], object]:
    """Use oneDNN with a prepacked weight."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _int_mm(weight: Tensor, x: Tensor) -> Callable[[], object]:
    w, rows = (t.mul(40).clamp(-127, 127).to(torch.int8) for t in (weight, x))
    return lambda: torch._int_mm(rows, w.T)


def _qlinear(weight: Tensor, x: Tensor) -> Callable[[], object]:
    """Use oneDNN's matmul of uint8 rows and int8 weights, with float32 output."""
    w = weight.mul(40).clamp(-127, 127).to(torch.int8)
    rows = x.mul(40).add(128).clamp(0, 255).to(torch.uint8)
    scales, zeros = torch.ones(len(w)), torch.zeros(len(w), dtype=torch.int32)
    prepacked = torch.ops.onednn.qlinear_prepack(w, list(rows.shape))
    return lambda: torch.ops.onednn.qlinear_pointwise(
        rows, 0.1, 128, prepacked, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


# All kernels by dtype; a new one is added here.
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "float32": (_linear, _packed),
    "bfloat16": (_linear, _packed),
    "int8": (_int_mm, _qlinear),
}
