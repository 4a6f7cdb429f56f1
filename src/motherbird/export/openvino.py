"""OpenVINO's files from an ONNX file, and their run on the CPU."""

from pathlib import Path

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from .certificate import Run, padded


def convert(onnx_file: Path, path: Path) -> None:
    """Write ``path`` (.xml) and the .bin beside it, with the weights in float32.

    Reading an ONNX file is all that openvino.convert_model does with one, but that function also
    reports to its maker.
    """
    path.parent.mkdir(exist_ok=True)
    model = openvino.Core().read_model(onnx_file)
    openvino.save_model(model, path, compress_to_fp16=False)


def runner(path: Path, pad: int, precision: str = "f32") -> Run:
    """The file as a function of documents; ``precision`` is f32 or bf16.

    Without the hint OpenVINO takes bfloat16 where the CPU has units for it.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.read_model(path)
    names = [output.any_name for output in model.outputs]  # compiled, they gather others
    compiled = core.compile_model(model, "CPU", settings)

    def infer(inputs: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        results = compiled(inputs)
        return {name: results[i] for i, name in enumerate(names)}

    return padded(infer, pad)
