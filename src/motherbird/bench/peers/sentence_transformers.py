"""sentence-transformers: its Transformer and Pooling modules, called as `encode` calls them.

`encode` sorts texts by length, cuts them into batches of `batch_size` and calls `forward` on what
the tokenizer gives. Here `forward` gets ids and mask directly, because tokenizing is not what is
measured, and the batches come sorted. Its own unpadding needs a GPU's attention kernels.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import require_extra
from . import Encode, Job, System, in_turn, missing, rectangle

SYSTEMS = tuple(
    System(__name__, "sentence-transformers", dtype, "sorted") for dtype in ("float32", "bfloat16")
)


def why_not(system: System) -> str | None:
    """Only where it is not installed."""
    return missing("sentence_transformers")


def prepare(system: System, job: Job) -> None:
    """The same model with a tokenizer beside it: without one the library loads nothing.

    Where the model has none, one of a single word stands in; it is never called.
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
    """A SentenceTransformer of two modules."""
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
        ids, mask = (torch.from_numpy(array) for array in rectangle(documents))
        features = model({"input_ids": ids, "attention_mask": mask})
        return features["sentence_embedding"].float().numpy()

    return in_turn(encode)
