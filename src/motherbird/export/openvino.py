"""Convert ONNX files to OpenVINO, and run them on the CPU."""

from pathlib import Path

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from .certificate import Runner, padded


def convert(onnx_file: Path, path: Path) -> None:
    """Write ``path`` (.xml) and the .bin file of the same name, with float32 weights.

    openvino.convert_model does the same, but also sends telemetry.
    """
    path.parent.mkdir(exist_ok=True)
    model = openvino.Core().read_model(onnx_file)
    openvino.save_model(model, path, compress_to_fp16=False)


def runner(path: Path, pad: int, precision: str = "f32") -> Runner:
    """Return a function that runs the file on documents.

    Args:
        path: the .xml file.
        pad: the id of the padding token.
        precision: "f32" or "bf16"; without it OpenVINO chooses bfloat16 on CPUs that support it.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.read_model(path)
    names = [output.any_name for output in model.outputs]  # a compiled model may have further names
    compiled = core.compile_model(model, "CPU", settings)

    def infer(inputs: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        results = compiled(inputs)
        return {name: results[i] for i, name in enumerate(names)}

    return padded(infer, pad)
