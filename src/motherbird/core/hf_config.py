"""Read and write config.json, with the keys of transformers 4, 5 and the research repository.

Written files have all keys, so that every version can read them. Files whose old and new keys
disagree are an error, because two versions of transformers would load two different models.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import InputError
from ..files import read_json_object
from .arguments import check_labels
from .config import FIELDS, EncoderConfig, every_nth_global
from .measure import Kind

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

Activation = Literal["sigmoid", "identity"]
_PROBLEM_TYPES: dict[str, Kind] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "number",
}
_OWN = "motherbird"  # the key with what only motherbird reads
_OLD_ACTIVATION = "sbert_ce_default_activation_function"  # of sentence-transformers before 4
# Keys about a head, besides the labels.
_HEAD = ("problem_type", _OWN, "sentence_transformers", _OLD_ACTIVATION)
_ACTIVATIONS = {"sigmoid": "torch.nn.modules.activation.Sigmoid",
                "identity": "torch.nn.modules.linear.Identity"}  # fmt: skip


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


def architecture(raw: dict[str, Any]) -> str:
    """Return the class that a parsed config.json names first; "" if it names none."""
    stated = raw.get("architectures")
    return str(stated[0]) if isinstance(stated, list) and stated else ""


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
    return raw | (_label_keys(labels) if labels else {})


def _label_keys(labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "num_labels": len(labels),
    }


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


@dataclass(frozen=True)
class HeadConfig:
    """What the logits of a classifier mean.

    Attributes:
        labels: the names of the C labels, in the order of the logits.
        kind: "single" (one label is right), "multi" (any number of labels), "number", or "tags" (a
            label of each token).
        temperature: the logits are divided by it before softmax or sigmoid.
        thresholds: for "multi", the probability from which a label is predicted; 0.5 for labels
            that it does not have.
        activation: for "number", what is applied to the logit.

    Raises:
        InputError: a value is impossible.
    """

    labels: tuple[str, ...]
    kind: Kind = "single"
    temperature: int | float = 1.0
    thresholds: Mapping[str, int | float] = field(default_factory=dict)
    activation: Activation = "identity"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("activation", self.activation, get_args(Activation)),
        ):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}", how=f"use {', '.join(known)}")
        object.__setattr__(self, "labels", check_labels(self.labels))
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            what = f"temperature {self.temperature!r} is not a number above 0"
            raise InputError(what, how="use 1 for none")
        if not isinstance(self.thresholds, Mapping):
            raise InputError("thresholds is not an object of labels and probabilities")
        if self.thresholds and self.kind != "multi":
            what = "thresholds are for models that predict any number of labels"
            raise InputError(what, how="leave them out")
        for label, threshold in self.thresholds.items():
            if label not in self.labels:
                raise InputError(f"there is a threshold for {label!r}, which is not a label")
            if not _is_number(threshold) or not 0 <= threshold <= 1:
                what = f"the threshold {threshold!r} of {label!r} is not a probability"
                raise InputError(what, how="use 0 to 1")
        if self.kind == "number" and len(self.labels) > 1:
            what = f"the model computes {len(self.labels)} numbers for each text"
            raise InputError(what, how="use a model with one")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_head(raw: dict[str, Any], where: str) -> HeadConfig:
    """Return what config.json says about the logits of a classifier.

    Those of a token classifier are tags. Else a single logit without a problem_type is a number,
    with a sigmoid, as in CrossEncoder of sentence-transformers.

    Raises:
        InputError: the labels or another value cannot be used.
    """
    stated, own = raw.get("problem_type"), raw.get(_OWN, {})
    library = raw.get("sentence_transformers")
    function = library.get("activation_fn") if isinstance(library, dict) else None
    function = function or raw.get(_OLD_ACTIVATION)
    if stated is not None and stated not in _PROBLEM_TYPES:
        how = f"use {', '.join(_PROBLEM_TYPES)}"
        raise InputError(f"unknown problem_type {stated!r}", where, how)
    if not isinstance(own, dict):
        raise InputError(f'"{_OWN}" is not an object', where, "remove it")
    try:
        labels = read_labels(raw)
        kind = _PROBLEM_TYPES.get(stated or "", "number" if len(labels) == 1 else "single")
        if architecture(raw).endswith("ForTokenClassification"):
            kind = "tags"
        if kind == "number":
            default: Activation = "identity" if stated else "sigmoid"
            activation = read_activation(function) if function else default
            return HeadConfig(labels, kind, activation=activation)
        return HeadConfig(labels, kind, own.get("temperature", 1.0), own.get("thresholds", {}))
    except InputError as error:
        raise InputError(error.what, where, error.how or "correct the file") from error


def read_activation(name: Any) -> Activation:
    """Return an activation by its name in sentence-transformers, such as torch.nn...Sigmoid."""
    short = str(name).rpartition(".")[2].lower()
    for known in get_args(Activation):
        if short == known:
            return known
    raise InputError(f"the activation {name!r} is not supported", how="use Sigmoid or Identity")


def write_head(directory: Path, head: HeadConfig) -> None:
    """Add to config.json of a directory that is being written what the logits mean.

    transformers reads the labels and problem_type, sentence-transformers its own key; both ignore
    the key "motherbird", which has the temperature and the thresholds.
    """
    file = directory / "config.json"
    raw = read_json_object(file)
    for key in _HEAD:
        raw.pop(key, None)
    raw |= _label_keys(head.labels)
    for name, kind in _PROBLEM_TYPES.items():
        if kind == head.kind:
            raw["problem_type"] = name
    own: dict[str, Any] = {}
    if head.temperature != 1:
        own["temperature"] = head.temperature
    if head.thresholds:
        own["thresholds"] = dict(head.thresholds)
    if own:
        raw[_OWN] = own
    if head.kind == "number":
        function = _ACTIVATIONS[head.activation]
        raw["sentence_transformers"] = {"activation_fn": function, "version": "5.3.0"}
    file.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def copy_head(raw: dict[str, Any], directory: Path) -> None:
    """Copy what another config.json says about its head into a directory that is being written."""
    file = directory / "config.json"
    own = read_json_object(file) | {key: raw[key] for key in _HEAD if key in raw}
    file.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
