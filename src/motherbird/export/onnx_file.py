"""Write, quantize and run ONNX files."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from .certificate import Runner, padded

ONE_FILE = 2**30  # bytes of weights; larger ones go to FILE_data (protobuf is limited to 2 GiB)


def save(model: ModelProto, path: Path) -> None:
    """Write a model; large weights go into a second file, FILE_data."""
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
    """Write a model with int8 weights, whose activations are quantized dynamically.

    Weights have one scale per column and use 7 of 8 bits, since 8 bits overflow in the instructions
    of older CPUs. The embedding and the products inside attention stay float32; a tied decoder is
    an int8 copy.
    """
    path.parent.mkdir(exist_ok=True)
    # Without it the library warns about a pre-processing step that this graph does not need.
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


def session(path: Path) -> onnxruntime.InferenceSession:
    """Open a session on the CPU, with torch's number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # so that a long document does not keep its memory
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: Path, pad: int) -> Runner:
    """Return a function that runs the file on documents."""
    running = session(path)
    names = [output.name for output in running.get_outputs()]

    def infer(inputs: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(names, running.run(names, inputs), strict=True))

    return padded(infer, pad)
