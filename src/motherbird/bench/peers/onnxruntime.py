"""ONNX Runtime on motherbird's export; int8 with its own dynamic quantization."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.batching import pad
from ...engine import library as engine
from ...errors import require_extra
from . import Encode, Job, System, mean_pool, one_by_one

PACKAGES = ("onnxruntime", "onnx")
SYSTEMS = tuple(
    System(__name__, "onnxruntime", dtype, "sorted", PACKAGES) for dtype in ("float32", "int8")
)


def prepare(system: System, job: Job) -> None:
    """Export once; quantize matmuls per channel, and keep the embedding in float32."""
    exported = _file(job, "float32")
    if not exported.exists():
        from ...export import onnx_graph
        from ...export.models import Exportable
        from ...nn.encoder import Encoder

        encoder = Exportable(Encoder.load(job.directory, dtype="float32"))
        require_extra("onnx", "bench").save(onnx_graph.build(encoder), exported)
    if system.dtype == "int8":
        quantization = require_extra("onnxruntime.quantization", "bench")
        quantization.quantize_dynamic(
            str(exported), str(_file(job, "int8")), per_channel=True,
            # Without VNNI, sums of two products overflow 16 bits unless weights have 7 bits.
            reduce_range=engine.variant().name in (b"avx2", b"portable"),
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )  # fmt: skip


def _file(job: Job, dtype: str) -> Path:
    return job.folder / f"onnx-{dtype}.onnx"


def build(system: System, job: Job) -> Encode:
    """Open a session that uses all threads within an operator; other options are defaults."""
    library = require_extra("onnxruntime", "bench")
    options = library.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = library.InferenceSession(
        str(_file(job, system.dtype)), options, providers=["CPUExecutionProvider"]
    )

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = pad(documents)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return mean_pool(session.run(["last_hidden_state"], inputs)[0], mask)

    return one_by_one(encode)
