"""sentence-transformers: its Transformer and Pooling modules, called as `encode` calls them.

`encode` sorts texts by length, cuts them into batches of `batch_size` and calls `forward` on the
output of the tokenizer. Here `forward` gets ids and mask directly, because tokenization is not
measured, and the batches are sorted. Its unpadding needs attention kernels of a GPU.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.batching import pad
from ...errors import require_extra
from . import Encode, Job, System, one_by_one

PACKAGES = ("sentence_transformers",)
SYSTEMS = tuple(
    System(__name__, "sentence-transformers", dtype, "sorted", PACKAGES)
    for dtype in ("float32", "bfloat16")
)


def prepare(system: System, job: Job) -> None:
    """Link the model's files, and add a tokenizer if it has none.

    The library does not load a model without a tokenizer; the added one is never called.
    """
    folder = _folder(job)
    if folder.exists():
        return
    folder.mkdir()
    for file in job.directory.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    if not (folder / "tokenizer.json").exists():
        tokenizers = require_extra("tokenizers", "bench")
        words = tokenizers.models.WordLevel({"[PAD]": 0}, unk_token="[PAD]")
        tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _folder(job: Job) -> Path:
    return job.folder / "sentence-transformers"


def build(system: System, job: Job) -> Encode:
    """Build a SentenceTransformer of the two modules."""
    import torch

    torch.set_num_threads(job.threads)
    library = require_extra("sentence_transformers", "bench")
    modules = library.sentence_transformer.modules
    transformer = modules.Transformer(
        str(_folder(job)), model_kwargs={"dtype": getattr(torch, system.dtype)}
    )
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = library.SentenceTransformer(modules=[transformer, pooling], device="cpu").eval()

    @torch.inference_mode()
    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = (torch.from_numpy(array) for array in pad(documents))
        features = model({"input_ids": ids, "attention_mask": mask})
        return features["sentence_embedding"].float().numpy()

    return one_by_one(encode)
