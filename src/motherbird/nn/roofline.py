"""How fast anything can be: the arithmetic of a token, and the ceiling of the machine.

The ceiling has one definition everywhere: the FLOPs of a layer's four products over the sum of
their best times at 4,096 rows, in that dtype, with the same threads, in the same run.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.config import EncoderConfig
from ..core.flops import matmul_shapes

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4096
PORTION = 2048  # rows of a call: malloc keeps no block above 32 MB, and fresh pages cost a quarter
DTYPES = ("float32", "bfloat16", "int8")
HOPELESS = 5.0  # seconds that one product may take; slower ways are no ceiling
_PROBE = 64  # rows on which that is tried first


def rooflines(
    config: EncoderConfig, threads: int, seconds: float, dtypes: Sequence[str] = DTYPES
) -> dict[str, float | None]:
    """`roofline` of every dtype, with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {dtype: roofline(config, dtype, seconds) for dtype in dtypes}
    finally:
        torch.set_num_threads(before)


def roofline(config: EncoderConfig, dtype: str, seconds: float) -> float | None:
    """TFLOPS of a layer's four products at 4,096 rows, each in the best way that we know.

    The rows come in two portions: see `PORTION`. Each way is repeated for ``seconds`` and at least
    three times. None where this machine has no usable way to compute in the dtype.
    """
    total_flops, total_seconds = 0, 0.0
    for outputs, inputs in matmul_shapes(config):
        times = [_best_time(way, outputs, inputs, seconds) for way in WAYS[dtype]]
        usable = [t for t in times if t is not None]
        if not usable:
            return None
        total_flops += 2 * ROWS * outputs * inputs
        total_seconds += min(usable)
    return total_flops / total_seconds / 1e12


# A way takes a float32 weight (outputs, inputs) and rows (rows, inputs), brings them into the form
# that it computes in, and returns what is to be timed: the product alone.
Way = Callable[["Tensor", "Tensor"], Callable[[], object]]


def _best_time(way: Way, outputs: int, inputs: int, seconds: float) -> float | None:
    """Seconds of the fastest of many products; None where the way fails or would take for ever."""
    import torch

    try:
        with torch.inference_mode():
            weight, x = torch.randn(outputs, inputs), torch.randn(ROWS, inputs)
            probe = way(weight, x[:_PROBE])
            probe()
            if _time(probe) * ROWS / _PROBE > HOPELESS:
                return None
            portions = [way(weight, rows) for rows in x.split(PORTION)]

            def run() -> None:
                for portion in portions:
                    portion()

            run()
            times: list[float] = []
            while len(times) < 3 or sum(times) < seconds:
                times.append(_time(run))
            return min(times)
    except (RuntimeError, AttributeError, NotImplementedError):  # not on this CPU, or torch
        return None


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _linear(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    from torch.nn.functional import linear

    return lambda: linear(x, weight)


def _linear_bfloat16(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    return _linear(weight.bfloat16(), x.bfloat16())


def _packed(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    """OneDNN with the weight laid out for it beforehand."""
    from .linear import onednn

    product = onednn.PackedLinear([weight], [None])
    return lambda: product(x)[0]


def _packed_bfloat16(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    return _packed(weight.bfloat16(), x.bfloat16())


def _int_mm(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    import torch

    w, rows = (t.mul(40).clamp(-127, 127).to(torch.int8) for t in (weight, x))
    return lambda: torch._int_mm(rows, w.T)


def _qlinear(weight: "Tensor", x: "Tensor") -> Callable[[], object]:
    """OneDNN's product of unsigned rows and signed weights, back to float32 on the way out."""
    import torch

    w = weight.mul(40).clamp(-127, 127).to(torch.int8)
    rows = x.mul(40).add(128).clamp(0, 255).to(torch.uint8)
    scales, zeros = torch.ones(len(w)), torch.zeros(len(w), dtype=torch.int32)
    laid_out = torch.ops.onednn.qlinear_prepack(w, list(rows.shape))
    return lambda: torch.ops.onednn.qlinear_pointwise(
        rows, 0.1, 128, laid_out, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


# Every way that we know to run a product, by dtype: a new form of product is added here.
WAYS: dict[str, tuple[Way, ...]] = {
    "float32": (_linear, _packed),
    "bfloat16": (_linear_bfloat16, _packed_bfloat16),
    "int8": (_int_mm, _qlinear),
}
