"""ONNX Runtime on our own export; int8 by its own dynamic quantisation."""

from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, require_extra
from ...machine import units
from . import Encode, Job, System, in_turn, mean, missing, rectangle

SYSTEMS = tuple(System(__name__, "onnxruntime", dtype, "sorted") for dtype in ("float32", "int8"))


def why_not(system: System) -> str | None:
    """Only where it, or what writes its files, is not installed."""
    return missing("onnxruntime", "onnx")


def prepare(system: System, job: Job) -> None:
    """Export once; quantise per channel, products only: the embedding stays as it is."""
    exported = _file(job, "float32")
    if not exported.exists():
        _export(job.directory, exported)
    if system.dtype == "int8":
        quantization = require_extra("onnxruntime.quantization", "bench")
        quantization.quantize_dynamic(
            str(exported),
            str(_file(job, "int8")),
            per_channel=True,
            # Without VNNI the sums of two products overflow 16 bits, unless weights have 7.
            reduce_range=not {"avx512_vnni", "avx_vnni", "asimd"} & set(units()),
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )


def _file(job: Job, dtype: str) -> Path:
    return job.folder / f"onnx-{dtype}.onnx"


def _export(directory: Path, file: Path) -> None:
    try:
        onnx_graph = import_module("motherbird.export.onnx_graph")
    except ModuleNotFoundError as error:
        raise InputError(f"our export of ONNX cannot be imported ({error})") from error
    from ...export.models import Exportable
    from ...nn.encoder import Encoder

    exported = Exportable(Encoder.load(directory, dtype="float32"))
    require_extra("onnx", "bench").save(onnx_graph.build(exported), file)


def build(system: System, job: Job) -> Encode:
    """A session with all threads inside an operator; everything else is its default."""
    library = require_extra("onnxruntime", "bench")
    options = library.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = library.InferenceSession(
        str(_file(job, system.dtype)), options, providers=["CPUExecutionProvider"]
    )

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = rectangle(documents)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return mean(session.run(["last_hidden_state"], inputs)[0], mask)

    return in_turn(encode)
