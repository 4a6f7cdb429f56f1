"""Read and write config.json, with the keys of transformers 4, 5 and the research repository.

Written files have all keys, so that every version can read them. Files whose old and new keys
disagree are an error, because two versions of transformers would load two different models.
"""

import logging
from typing import Any

from ..errors import InputError
from .arguments import check_labels
from .config import FIELDS, EncoderConfig, every_nth_global

log = logging.getLogger(__name__)

ROPE_KINDS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
# Defaults of transformers that differ from those of EncoderConfig, which are the paper's.
_DEFAULTS = {"classifier_pooling": "cls"}
# Keys of the research repository (FlexBERT), and those of transformers.
_RESEARCH = {
    "sliding_window": "local_attention",
    "rotary_emb_base": "global_rope_theta",
    "local_attn_rotary_emb_base": "local_rope_theta",
}


def read(raw: dict[str, Any], where: str) -> EncoderConfig:
    """Make an EncoderConfig from a parsed config.json; unknown keys are ignored.

    Args:
        raw: the parsed file.
        where: its path, for messages.

    Raises:
        InputError: another architecture, remote code, or values that are impossible or disagree.
    """
    _check_family(raw, where)
    if "rotary_emb_base" in raw:
        raw = {_RESEARCH.get(key, key): value for key, value in raw.items()}
    values = {**_DEFAULTS, **{key: raw[key] for key in FIELDS if raw.get(key) is not None}}
    if isinstance(values.get("eos_token_id"), list):  # 5.x allows several
        if not values["eos_token_id"]:
            raise InputError("eos_token_id is an empty list", where, "set it to one id")
        values["eos_token_id"] = values["eos_token_id"][0]
    for name in ("pad", "bos", "eos", "cls", "sep"):  # null means no token, not the default
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
    if raw.get("model_type") is None and not research:
        how = "use a model of type 'modernbert'"
        raise InputError("config.json states no model_type", where, how)
    if raw.get("model_type") != "modernbert" and not research:
        raise InputError(
            f"model_type {raw.get('model_type')!r} ({architectures[0]}) is not supported",
            where,
            "use a model of type 'modernbert'",
        )
    for key, reason in (
        ("auto_map", "needs code from the model directory to be run"),
        ("quantization_config", "is quantized by another library"),
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
            "rope_parameters is not an object for each type of layer",
            where,
            f"its keys are {' and '.join(ROPE_KINDS)}",
        )
    for kind, old in ROPE_KINDS.items():
        new = parameters.get(kind, {})
        if new.get("rope_type", "default") != "default":
            raise InputError(f"rope_type {new['rope_type']!r} of {kind} is not supported", where)
        if "rope_theta" not in new:
            continue
        # -1 and null in the old key mean the theta of the global layers.
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
    every: Any = values.get("global_attn_every_n_layers")
    stated = isinstance(every, int) and every > 0
    if stated and values["layer_types"] != every_nth_global(len(types), every):
        raise InputError(
            f"global_attn_every_n_layers = {every} and layer_types disagree",
            where,
            "make them equal: transformers 4 reads the first, 5 the second",
        )


def write(
    config: EncoderConfig, architecture: str, dtype: str, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Return the content of config.json, with the keys of transformers 4 and 5."""
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
            "transformers 5 loads it correctly, transformers 4 and text-embeddings-inference do not"
        )
    if labels:
        raw["id2label"] = {str(i): label for i, label in enumerate(labels)}
        raw["label2id"] = {label: i for i, label in enumerate(labels)}
        raw["num_labels"] = len(labels)
    return raw


def read_labels(raw: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels, in the order of its logits.

    transformers does not write two labels without names.

    Raises:
        InputError: id2label does not map 0, 1, 2, ... to names; see also `check_labels`.
    """
    labels = raw.get("id2label")
    if labels is None:
        count = raw.get("num_labels", 2)
        possible = isinstance(count, int) and 0 < count < 2**16
        labels = {str(i): f"LABEL_{i}" for i in range(count)} if possible else None
    wanted = [str(i) for i in range(len(labels))] if isinstance(labels, dict) else []
    if not wanted or not isinstance(labels, dict) or set(labels) != set(wanted):
        raise InputError("id2label does not map 0, 1, 2, ... to names, or num_labels is invalid")
    return check_labels([labels[number] for number in wanted])
