"""config.json, both ways: the keys of transformers 4.x, of 5.x, and of the research repository.

We write one superset that every version reads; we refuse files whose old and new keys disagree,
because two versions of transformers would load two different models from them.
"""

import logging
from typing import Any

from ..errors import InputError
from .config import FIELDS, EncoderConfig, every_nth_global

log = logging.getLogger(__name__)

ROPE_KINDS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
# What transformers assumes where config.json is silent and our own default (the paper's) differs.
_SILENT = {"classifier_pooling": "cls"}
# Research repository (spec: FlexBERT) to transformers.
_RESEARCH = {
    "sliding_window": "local_attention",
    "rotary_emb_base": "global_rope_theta",
    "local_attn_rotary_emb_base": "local_rope_theta",
}


def read(raw: dict[str, Any], where: str) -> EncoderConfig:
    """Make an EncoderConfig of a parsed config.json; keys that do not concern us are left alone.

    Raises:
        InputError: another architecture, remote code, values that are impossible or disagree.
    """
    _check_family(raw, where)
    if "rotary_emb_base" in raw:
        raw = {_RESEARCH.get(key, key): value for key, value in raw.items()}
    values = {**_SILENT, **{key: raw[key] for key in FIELDS if raw.get(key) is not None}}
    if isinstance(values.get("eos_token_id"), list):  # 5.x allows several
        if not values["eos_token_id"]:
            raise InputError("eos_token_id is an empty list", where, "write one id")
        values["eos_token_id"] = values["eos_token_id"][0]
    for name in ("pad", "bos", "eos", "cls", "sep"):  # null means "none", not "the default"
        if f"{name}_token_id" in raw:
            values.setdefault(f"{name}_token_id", None)
    _read_thetas(raw, values, where)
    _read_layer_types(raw, values, where)
    try:
        return EncoderConfig(**values)
    except InputError as error:
        raise InputError(error.what, where, "correct the file") from error


def _check_family(raw: dict[str, Any], where: str) -> None:
    architectures = raw.get("architectures") or ["(none stated)"]
    if not isinstance(architectures, list):
        raise InputError("architectures is not a list", where)
    research = str(architectures[0]).startswith("FlexBert")
    if raw.get("model_type") != "modernbert" and not research:
        raise InputError(
            f"model_type {raw.get('model_type')!r} ({architectures[0]}) is another architecture",
            where,
            "motherbird loads models of type 'modernbert'",
        )
    for key, reason in (
        ("auto_map", "asks for code from the model's folder to be run"),
        ("quantization_config", "is quantised in a foreign format"),
        ("rope_scaling", "scales its rotary positions"),
    ):
        if raw.get(key):
            raise InputError(f"the model {reason} ({key})", where, "load an unmodified checkpoint")


def _read_thetas(raw: dict[str, Any], values: dict[str, Any], where: str) -> None:
    parameters = raw.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or not all(
        kind in ROPE_KINDS and isinstance(value, dict) for kind, value in parameters.items()
    ):
        raise InputError(
            "rope_parameters is not one object for each kind of layer",
            where,
            f"its keys are {' and '.join(ROPE_KINDS)}",
        )
    for kind, old in ROPE_KINDS.items():
        new = parameters.get(kind, {})
        if new.get("rope_type", "default") != "default":
            raise InputError(f"rope_type {new['rope_type']!r} of {kind} is not supported", where)
        if "rope_theta" not in new:
            continue
        # -1 and null in the old key mean "as the global layers".
        if raw.get(old) not in (None, -1, new["rope_theta"]):
            raise InputError(
                f"{old} = {raw[old]} and rope_parameters.{kind}.rope_theta = {new['rope_theta']} "
                "disagree",
                where,
                "make them equal: transformers 4 reads the first, 5 the second",
            )
        values[old] = new["rope_theta"]
    local = ROPE_KINDS["sliding_attention"]
    if local in raw and raw[local] in (None, -1) and values.get(local) in (None, -1):
        values[local] = values.get("global_rope_theta", EncoderConfig.global_rope_theta)


def _read_layer_types(raw: dict[str, Any], values: dict[str, Any], where: str) -> None:
    types = values.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list):
        raise InputError("layer_types is not a list", where)
    values["layer_types"] = tuple(types)
    if "global_attn_every_n_layers" in values:
        every = values["global_attn_every_n_layers"]
        if (
            isinstance(every, int)
            and every > 0
            and values["layer_types"] != every_nth_global(len(types), every)
        ):
            raise InputError(
                f"global_attn_every_n_layers = {every} and layer_types disagree",
                where,
                "make them equal: transformers 4 reads the first, 5 the second",
            )


def write(
    config: EncoderConfig, architecture: str, dtype: str, labels: tuple[str, ...]
) -> dict[str, Any]:
    """The superset for config.json (interop 1.2): 4.x and 5.x keys together, in agreement."""
    thetas = {kind: getattr(config, old) for kind, old in ROPE_KINDS.items()}
    raw: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "modernbert",
        **{key: getattr(config, key) for key in FIELDS},
        "layer_types": list(config.layers),
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
        "layer_norm_eps": config.norm_eps,
        "deterministic_flash_attn": False,
        "sparse_prediction": False,
        "sparse_pred_ignore_index": -100,
        "reference_compile": False,
        "torch_dtype": dtype,
        "dtype": dtype,
        "transformers_version": "4.57.0",
    }
    if config.layer_types is not None:
        del raw["global_attn_every_n_layers"]
        log.warning(
            "layer_types of this model cannot be written as 'every n-th layer is global': "
            "transformers 4 and text-embeddings-inference will not load it rightly; 5 will"
        )
    if labels:
        raw["id2label"] = {str(i): label for i, label in enumerate(labels)}
        raw["label2id"] = {label: i for i, label in enumerate(labels)}
        raw["num_labels"] = len(labels)
    return raw


def read_labels(raw: dict[str, Any]) -> tuple[str, ...]:
    """Names of a classifier's labels in the order of its logits.

    transformers writes none where there are two without names.

    Raises:
        InputError: id2label is no table of the numbers 0.. and names.
    """
    labels = raw.get("id2label")
    if labels is None:
        count = raw.get("num_labels", 2)
        possible = isinstance(count, int) and 0 < count < 2**16
        labels = {str(i): f"LABEL_{i}" for i in range(count)} if possible else None
    wanted = [str(i) for i in range(len(labels))] if isinstance(labels, dict) else []
    if not wanted or not isinstance(labels, dict) or set(labels) != set(wanted):
        raise InputError("the labels (id2label, num_labels) are no table of 0.. and names")
    names = tuple(labels[number] for number in wanted)
    if not all(isinstance(name, str) for name in names):
        raise InputError("a label in id2label is not a text")
    return names
