"""The ONNX file: written, quantised, and run by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from .certificate import Run, padded

ONE_FILE = 2**30  # bytes of weights; above, they go to FILE_data, far from protobuf's 2 GiB


def save(model: ModelProto, path: Path) -> None:
    """Write a model; large weights into a second file beside it, called as consumers expect."""
    path.parent.mkdir(exist_ok=True)
    large = _weight_bytes(model) > ONE_FILE
    onnx.save_model(
        model,
        path,
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=f"{path.name}_data",
        size_threshold=1024,
    )


def save_int8(model: ModelProto, path: Path) -> None:
    """Write a model whose matrices are int8 and whose activations are quantised as it runs.

    One scale a column, and 7 bits of 8: the sums of older CPUs' instructions overflow beyond. The
    embedding and attention's own products stay float32; a tied decoder is a copy in int8.
    """
    path.parent.mkdir(exist_ok=True)
    # The library would warn of a pre-processing that such a graph has no use for.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=_weight_bytes(model) // 4 > ONE_FILE,
    )


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def session(path: Path, *, arena: bool = True) -> onnxruntime.InferenceSession:
    """A session on the CPU, with torch's number of threads.

    The arena keeps the memory of the largest batch for the next one; without it a run is slower.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = arena
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: Path, pad: int) -> Run:
    """The file as a function of documents."""
    running = session(path, arena=False)  # one long document is not to hold memory for others
    names = [output.name for output in running.get_outputs()]

    def infer(inputs: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(names, running.run(names, inputs), strict=True))

    return padded(infer, pad)
