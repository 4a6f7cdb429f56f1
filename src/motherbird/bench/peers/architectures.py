"""The other models of the paper's table: BERT, RoBERTa, DeBERTaV3, NomicBERT and GTE-en-MLM.

They run in transformers, sorted by length, with random weights, in the fastest dtype of the
machine. Batched vectors are compared with those of the same model, one document at a time, in
float32.
"""

from typing import Any

from ...core import weights
from ...core.config import EncoderConfig
from ...errors import require_extra
from . import Encode, Job, System, transformers

# By name: the class of the configuration, the longest document, and the published settings.
_MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bert": ("BertConfig", 512, {"vocab_size": 30_522}),
    "roberta": ("RobertaConfig", 512,
                {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "deberta-v3": ("DebertaV2Config", 512,
                   {"vocab_size": 128_100, "type_vocab_size": 0, "relative_attention": True,
                    "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
                    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}),
    "nomic-bert": ("NomicBertConfig", 8192,
                   {"vocab_size": 30_528, "max_position_embeddings": 8192}),
    "gte": ("GteConfig", 8192,
            {"vocab_size": 30_528, "max_position_embeddings": 8192, "pad_token_id": 0}),
}  # fmt: skip
SYSTEMS = tuple(
    System(__name__, name, "auto", "sorted", ("transformers",), longest, same_weights=False)
    for name, (_, longest, _) in _MODELS.items()
)
# Published (layers, heads) by the hidden size of the model they are compared with: base, large.
_SIZES = {768: (12, 12), 1024: (24, 16)}


def build(system: System, job: Job) -> Encode:
    """Build the architecture in the size of the job's model, with weights from a fixed seed."""
    import torch

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    common = weights.encoder_config(job.directory)
    config = _config(system.name, common.hidden_size, *_size(common))
    model = require_extra("transformers", "bench").AutoModel.from_config(config)
    return transformers.padded(model.to(getattr(torch, system.dtype)))


def _size(model: EncoderConfig) -> tuple[int, int]:
    """Return layers and heads: published ones, else as many parameters in matrices as the model.

    A layer of the model has 4 D^2 + 3 D F parameters, one with an MLP of 4 x D has 12 D^2.
    """
    width, layers = model.hidden_size, model.num_hidden_layers
    own = layers * (4 * width + 3 * model.intermediate_size)
    return _SIZES.get(width, (max(1, round(own / (12 * width))), model.num_attention_heads))


def _config(name: str, width: int, layers: int, heads: int) -> object:
    """Return a configuration with the published vocabulary and limits, and an MLP of 4 x D."""
    class_name, _, settings = _MODELS[name]
    return getattr(require_extra("transformers", "bench"), class_name)(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads,
        intermediate_size=4 * width, **settings,
    )  # fmt: skip
