"""Embedder: texts to vectors, one for each."""

import json
import logging
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float32

from ..core import hub, weights
from ..core.arguments import Documents, check_flag, check_ids, check_integer
from ..core.config import Pooling
from ..core.inference import InferenceModel
from ..errors import DamagedError, InputError
from ..files import read_json, read_json_object
from . import backend
from .text_model import TextModel

if TYPE_CHECKING:
    from ..nn.encoder import Encoder

log = logging.getLogger(__name__)

_MODULES = ("Transformer", "Pooling", "Normalize")


class Embedder(TextModel):
    """An encoder with its tokenizer and a pooling.

    Args:
        encoder: an encoder, or any `InferenceModel`.
        pooling: "mean" of the token vectors, or "cls", the vector of the first token.
        prompts, default_prompt, max_length: see `TextModel`.
        normalize: whether vectors are scaled to length 1, unless `embed` is told otherwise.
    """

    def __init__(
        self,
        encoder: "Encoder | InferenceModel",
        pooling: Pooling = "mean",
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        max_length: int | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(encoder, max_length, prompts, default_prompt)
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling {pooling!r} is unknown", how="use mean or cls")
        self.pooling: Pooling = pooling
        self.normalize = check_flag(normalize, "normalize")

    @classmethod
    def _load(cls, directory: Path, **options: Any) -> "Embedder":
        place, arguments = read_modules(directory)
        if not place.is_dir():
            raise InputError("the directory of the encoder is missing", str(place))
        model = backend.load(place, **options)
        # Nano has modules.json for sentence-transformers, but was never trained for embeddings.
        claimed = (directory / "modules.json").is_file() and directory != hub.NANO_FOLDER
        if not claimed and any(n.startswith("decoder.") for n in weights.head_tensors(directory)):
            _warn_not_trained(directory)
        return cls(model, **arguments)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Name the method for users of sentence-transformers; other names are not found."""
            instead = ": use embed(texts)" if name == "encode" else ""
            raise AttributeError(f"Embedder has no attribute {name!r}{instead}")

    @property
    def encoder(self) -> "Encoder":
        """The torch encoder, to train or to save.

        Raises:
            InputError: this embedder does not run on torch.
        """
        return self.module

    @property
    def module(self) -> "Encoder":
        """The encoder of the torch model, which `save` writes."""
        return super().module.encoder

    def _write_more(self, directory: Path) -> None:
        self.write_modules(directory)

    def write_modules(self, directory: Path, at: str = "") -> None:
        """Write the files that sentence-transformers reads, in the format of version 5.3.

        Args:
            directory: the model's directory.
            at: the subdirectory of the encoder, if it is in one.
        """
        config = self.model.config
        kind = "sentence_transformers.models."
        modules = _MODULES if self.normalize else _MODULES[:-1]
        modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens",
                 "weightedmean_tokens", "lasttoken")  # fmt: skip
        contents: dict[str, Any] = {
            "modules.json": [
                {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else at, "type": kind + name}
                for i, name in enumerate(modules)
            ],
            "config_sentence_transformers.json": {
                "model_type": "SentenceTransformer",
                # The lowest versions that read this: a library warns about higher ones.
                "__version__": {
                    "sentence_transformers": "5.3.0",
                    "transformers": "4.57.6",
                    "pytorch": "2.11.0",
                },
                "prompts": self.prompts,
                "default_prompt_name": self.default_prompt,
                "similarity_fn_name": "cosine",
            },
            f"{at}/sentence_bert_config.json".lstrip("/"): {
                "max_seq_length": self.max_length,
                "do_lower_case": False,
            },
            "1_Pooling/config.json": {
                "word_embedding_dimension": config.hidden_size,
                **{
                    f"pooling_mode_{mode}": mode.startswith(self.pooling + "_tok") for mode in modes
                },
                "include_prompt": True,
            },
        }
        if self.normalize:
            contents["2_Normalize/config.json"] = {
                "module_input_name": "sentence_embedding",
                "module_output_name": "sentence_embedding",
            }
        for name, content in contents.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def embed(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, "n dimensions"]:
        """Compute a vector for each text.

        Args:
            texts: n texts, none of them empty.
            prompt_name: the name of one of the model's prompts, which is put before each text.
            prompt: the prompt itself, instead of its name; "" for none. If neither is given,
                the model's default prompt is used.
            normalize: scale every vector to length 1; None does what the model's directory says.
            truncate_dim: keep only the first dimensions, before normalizing.
            max_length: maximum number of tokens per text, special tokens included.
            truncate: truncate longer texts, and log how many; otherwise they are an error.
            batch_tokens: tokens per batch; None chooses by the device.

        Returns:
            A float32 array (n, D) whose row i belongs to text i.

        Raises:
            InputError: a text is not a string, empty or too long, there is no such prompt, or an
                argument is invalid.
        """
        ids, _ = self.tokenize(
            texts, prompt_name=prompt_name, prompt=prompt, max_length=max_length, truncate=truncate
        )
        return self.embed_ids(
            ids, normalize=normalize, truncate_dim=truncate_dim, batch_tokens=batch_tokens
        )

    def embed_ids(
        self,
        ids: Documents,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] = lambda documents: None,
    ) -> Float32[np.ndarray, "n dimensions"]:
        """Compute a vector for each list of token ids, as `embed` does for texts.

        Documents are not padded: one that begins or ends with the pad token of the tokenizer is an
        InputError. ``on_batch`` is called with the number of documents of each batch that is done.
        """
        size = self.model.config.hidden_size
        dimensions = size if truncate_dim is None else truncate_dim
        dimensions = check_integer(dimensions, "truncate_dim", 1, size)
        normalize = self.normalize if normalize is None else check_flag(normalize, "normalize")
        arrays = check_ids(ids)
        vectors = np.empty((len(arrays), dimensions), dtype=np.float32)
        for documents, rows in self.batches(arrays, self.pooling, batch_tokens=batch_tokens):
            part = np.stack(rows)[:, :dimensions]
            if normalize:
                part = part / np.linalg.norm(part, axis=1, keepdims=True).clip(min=1e-12)
            vectors[documents] = part
            on_batch(len(documents))
        return vectors


@cache
def _warn_not_trained(directory: Path) -> None:
    log.warning("%s is a masked language model that was not trained for embeddings: its vectors "
                "are weak for search", directory)  # fmt: skip


def read_modules(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Read the modules of a sentence-transformers directory.

    Returns:
        The directory of the encoder, and arguments of `Embedder`. Without modules.json, it is the
        directory itself, with mean pooling and no normalization, as in sentence-transformers.

    Raises:
        InputError: a module or a setting that motherbird does not have.
    """
    if not (directory / "modules.json").is_file():
        return directory, {"normalize": False}
    modules = read_json(directory / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise InputError("not a list of modules", str(directory / "modules.json"))
    paths: dict[str, Path] = {}
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2]
        path = str(module.get("path"))
        if kind not in _MODULES or not re.fullmatch(r"\w*", path):
            raise InputError(
                f"the model has a module {kind!r} at {path!r}, which motherbird does not have",
                str(directory / "modules.json"),
            )
        paths[kind] = directory / path
    place = paths.get("Transformer", directory)
    arguments = _read_prompts(directory / "config_sentence_transformers.json")
    limits = place / "sentence_bert_config.json"
    if _read_optional(limits).get("do_lower_case"):
        raise InputError("do_lower_case is not supported", str(limits))
    length = _read_optional(limits).get("max_seq_length")
    if length is None:  # sentence-transformers 6 stores it with the tokenizer
        length = _read_optional(place / "tokenizer_config.json").get("model_max_length")
        length = length if isinstance(length, int) and 0 < length < 1 << 24 else None
    if length is not None and (not isinstance(length, int) or length < 1):
        raise InputError(f"max_seq_length = {length!r} is not a number of tokens", str(limits))
    arguments["max_length"] = length
    arguments["normalize"] = "Normalize" in paths
    if "Pooling" in paths:
        arguments["pooling"] = _read_pooling(paths["Pooling"] / "config.json")
    return place, arguments


def _read_prompts(path: Path) -> dict[str, Any]:
    settings = _read_optional(path)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError("prompts is not an object of names and texts", str(path))
    if default is not None and default not in prompts:
        raise InputError(f"default_prompt_name {default!r} is not among the prompts", str(path))
    return {"prompts": prompts, "default_prompt": default}


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _read_pooling(path: Path) -> Pooling:
    if not path.is_file():
        raise DamagedError("the file is missing", str(path), "download the model again")
    settings = read_json_object(path)
    modes = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True]
    mode = settings.get("pooling_mode") or "+".join(m.removeprefix("pooling_mode_") for m in modes)
    known: dict[str, Pooling] = {
        "mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"
    }  # fmt: skip
    if not isinstance(mode, str) or mode not in known or settings.get("include_prompt") is False:
        raise InputError(
            f"pooling {mode!r} with include_prompt {settings.get('include_prompt', True)} "
            "is not supported",
            str(path),
            "use mean or cls pooling over all tokens",
        )
    return known[mode]
