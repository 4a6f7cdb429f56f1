"""OpenVINO on transformers' ModernBERT, converted directly, with finite masks.

Its conversion of transformers' own boolean masks turns whole documents to NaN as soon as padding is
longer than half a window: some query then sees no key at all. Here the masks are added numbers,
large and finite.

int8 comes in both of its forms. "openvino" has weights and activations quantised beforehand by
NNCF, calibrated on documents of the same kind: the fastest form. "openvino-dynamic" has 8-bit
weights, and quantises activations as they come, in groups of 128: nearer to float32. What stays a
float is in the fastest dtype that the CPU has.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, require_extra
from ..workloads import WORKLOADS
from . import Encode, Job, System, in_turn, mean, missing, rectangle

STATIC = System(__name__, "openvino", "int8", "sorted")
DYNAMIC = System(__name__, "openvino-dynamic", "int8", "sorted")
SYSTEMS = (
    System(__name__, "openvino", "float32", "sorted"),
    System(__name__, "openvino", "bfloat16", "sorted"),
    STATIC,
    DYNAMIC,
)
HIDDEN = -1e9  # two of them still are a finite float32, and bfloat16
CALIBRATION = 16  # documents


def why_not(system: System) -> str | None:
    """Where it, or what it converts from or by, is not installed."""
    return missing("openvino", "transformers", *(["nncf"] if system.dtype == "int8" else []))


def prepare(system: System, job: Job) -> None:
    """Convert once; quantise from that."""
    # Its tools report their use to their maker. Without this module they do not.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    converted = job.folder / "openvino.xml"
    if not converted.exists():
        _convert(job, converted)
    if system == STATIC:
        _quantize(job, converted, _file(system, job))
    if system == DYNAMIC:
        _compress(converted, _file(system, job))


def _file(system: System, job: Job) -> Path:
    names = {STATIC: "openvino-static.xml", DYNAMIC: "openvino-dynamic.xml"}
    return job.folder / names.get(system, "openvino.xml")


def _convert(job: Job, file: Path) -> None:
    import torch

    openvino = require_extra("openvino", "bench")
    library = require_extra("transformers", "bench")
    model = library.AutoModel.from_pretrained(job.directory, dtype=torch.float32).eval()
    window = model.config.sliding_window

    class FiniteMasks(torch.nn.Module):
        """The model with its two masks as sums of large numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            padding = (1 - attention_mask[:, None, None, :]).to(torch.float32) * HIDDEN
            place = torch.arange(input_ids.shape[1])
            far = (place[:, None] - place[None, :]).abs() > window
            masks = {
                "full_attention": padding,
                "sliding_attention": padding + far.to(torch.float32) * HIDDEN,
            }
            return self.model(input_ids=input_ids, attention_mask=masks).last_hidden_state

    ids, mask = (torch.from_numpy(array) for array in rectangle([[1, 2, 3], [1, 2]]))
    whole_numbers = openvino.PartialShape([-1, -1]), openvino.Type.i64
    converted = openvino.convert_model(
        FiniteMasks(),
        example_input={"input_ids": ids, "attention_mask": mask},
        input=[whole_numbers, whole_numbers],
    )
    openvino.save_model(converted, file, compress_to_fp16=False)


def _quantize(job: Job, converted: Path, file: Path) -> None:
    openvino = require_extra("openvino", "bench")
    nncf = require_extra("nncf", "bench")
    workload = WORKLOADS["short-variable"]
    examples: list[dict[int, NDArray[np.int64]]] = []
    for number in range(CALIBRATION):
        document = workload.document(number * 31, job.vocab_size)
        examples.append(dict(enumerate(rectangle([document[: job.longest]]))))
    quantized = nncf.quantize(
        openvino.Core().read_model(converted),
        nncf.Dataset(examples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=CALIBRATION,
    )
    openvino.save_model(quantized, file, compress_to_fp16=False)


def _compress(converted: Path, file: Path) -> None:
    openvino = require_extra("openvino", "bench")
    nncf = require_extra("nncf", "bench")
    model = openvino.Core().read_model(converted)
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(compressed, file, compress_to_fp16=False)


def build(system: System, job: Job) -> Encode:
    """The compiled model; float32 has to be asked for where the CPU has bfloat16."""
    core = require_extra("openvino", "bench").Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if system.dtype == "bfloat16" and not has_bfloat16:
        raise InputError("OpenVINO finds no bfloat16 units in this CPU")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32"
        if system.dtype == "float32" or not has_bfloat16
        else "bf16",
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time gets all threads
        "INFERENCE_NUM_THREADS": job.threads,
    }
    if system == DYNAMIC:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    model = core.compile_model(_file(system, job), "CPU", settings)

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = rectangle(documents)
        hidden = np.asarray(model({0: ids, 1: mask})[0], dtype=np.float32)
        return mean(hidden, mask)

    return in_turn(encode)
