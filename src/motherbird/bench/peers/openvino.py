"""OpenVINO on transformers' ModernBERT, converted directly, with finite masks.

With transformers' boolean masks, the converted model returns NaN for whole documents if padding is
longer than half a window, because some queries then attend to no key. Here the masks are large
finite numbers that are added.

int8 comes in two variants. "openvino" has weights and activations quantized in advance by NNCF,
calibrated on documents of the same type; it is the fastest. "openvino-dynamic" has 8-bit weights,
and quantizes activations at run time in groups of 128; it is closer to float32. Other operators
run in the fastest float dtype of the CPU.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.batching import pad
from ...errors import InputError, require_extra
from ..workloads import WORKLOADS
from . import Encode, Job, System, mean_pool, one_by_one

PACKAGES = ("openvino", "transformers")
FLOAT32, BFLOAT16 = (
    System(__name__, "openvino", dtype, "sorted", PACKAGES) for dtype in ("float32", "bfloat16")
)
STATIC, DYNAMIC = (
    System(__name__, name, "int8", "sorted", (*PACKAGES, "nncf"))
    for name in ("openvino", "openvino-dynamic")
)
SYSTEMS = (FLOAT32, BFLOAT16, STATIC, DYNAMIC)
MASKED = -1e9  # the sum of two is still finite in float32 and bfloat16
CALIBRATION = 16  # documents


def prepare(system: System, job: Job) -> None:
    """Convert once, and quantize the converted model."""
    # Without this module, OpenVINO's tools do not send telemetry.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    converted = job.folder / "openvino.xml"
    if not converted.exists():
        _convert(job, converted)
    if system not in (STATIC, DYNAMIC):
        return
    openvino, nncf = require_extra("openvino", "bench"), require_extra("nncf", "bench")
    model = openvino.Core().read_model(converted)
    if system == DYNAMIC:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    else:
        workload = WORKLOADS["short-variable"]
        documents = [workload.document(31 * n, job.vocab_size) for n in range(CALIBRATION)]
        examples = [dict(enumerate(pad([document[: job.longest]]))) for document in documents]
        model = nncf.quantize(
            model, nncf.Dataset(examples),
            model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION,
        )  # fmt: skip
    openvino.save_model(model, _file(system, job), compress_to_fp16=False)


def _file(system: System, job: Job) -> Path:
    names = {STATIC: "openvino-static.xml", DYNAMIC: "openvino-dynamic.xml"}
    return job.folder / names.get(system, "openvino.xml")


def _convert(job: Job, file: Path) -> None:
    import torch

    openvino = require_extra("openvino", "bench")
    model = (
        require_extra("transformers", "bench")
        .AutoModel.from_pretrained(job.directory, dtype=torch.float32)
        .eval()
    )
    window = model.config.sliding_window

    class FiniteMasks(torch.nn.Module):
        """The model with both of its masks as numbers that are added."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            padding = (1 - attention_mask[:, None, None, :]).to(torch.float32) * MASKED
            index = torch.arange(input_ids.shape[1])
            far = (index[:, None] - index[None, :]).abs() > window
            sliding = padding + far.to(torch.float32) * MASKED
            masks = {"full_attention": padding, "sliding_attention": sliding}
            return self.model(input_ids=input_ids, attention_mask=masks).last_hidden_state

    ids, mask = (torch.from_numpy(array) for array in pad([[1, 2, 3], [1, 2]]))
    input_type = openvino.PartialShape([-1, -1]), openvino.Type.i64
    converted = openvino.convert_model(
        FiniteMasks(),
        example_input={"input_ids": ids, "attention_mask": mask},
        input=[input_type, input_type],
    )
    openvino.save_model(converted, file, compress_to_fp16=False)


def build(system: System, job: Job) -> Encode:
    """Compile the model; float32 has to be requested if the CPU supports bfloat16."""
    core = require_extra("openvino", "bench").Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if system.dtype == "bfloat16" and not has_bfloat16:
        raise InputError("OpenVINO finds no bfloat16 support in this CPU")
    is_float32 = system.dtype == "float32" or not has_bfloat16
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if is_float32 else "bf16",
        "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch at a time
        "INFERENCE_NUM_THREADS": job.threads,
    }
    if system == DYNAMIC:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    model = core.compile_model(_file(system, job), "CPU", settings)

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = pad(documents)
        states = np.asarray(model({0: ids, 1: mask})[0], dtype=np.float32)
        return mean_pool(states, mask)

    return one_by_one(encode)
