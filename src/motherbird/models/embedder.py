"""Embedder: texts to vectors, one each."""

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize as normalized

from ..core import hub
from ..core.config import Pooling
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import read_json
from ..nn import checkpoint
from ..nn.encoder import Encoder
from ..nn.heads import pool
from ..nn.memory import batch_budget
from ..nn.packed import pack, split_by_tokens
from ..nn.threads import executor

log = logging.getLogger(__name__)

_MODULES = ("Transformer", "Pooling", "Normalize")


class Embedder:
    """An encoder, its tokenizer, and how to pool.

    Args:
        encoder: with a tokenizer of its own.
        pooling: "mean" over the tokens or "cls", the first one's vector.
        prompts: name to text that is put before what is embedded.
        default_prompt: the name of the prompt that is used where none is asked for.
        max_length: longest document in tokens; None the encoder's own limit.
        normalize: whether the model's directory tells other libraries to scale vectors to length 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        pooling: Pooling = "mean",
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        max_length: int | None = None,
        normalize: bool = True,
    ) -> None:
        limit = encoder.config.max_position_embeddings
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.prompts = prompts or {}
        self.default_prompt = default_prompt
        self.max_length = min(limit, max_length or limit)
        self.normalize = normalize

    @property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer; InputError where it has none."""
        return checkpoint.own_tokenizer(self.encoder)

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        attention: str = "auto",
        device: torch.device | str | None = None,
        revision: str | None = None,
    ) -> "Embedder":
        """Load a sentence-transformers directory, or any checkpoint of the family (mean pooling).

        Arguments and errors as `Encoder.load`; modules that change the vectors in a way that we do
        not have (Dense and others) are refused.
        """
        directory = hub.find(name_or_dir, revision)
        place, arguments = read_modules(directory)
        if not place.is_dir():
            raise InputError("the folder of the encoder is missing", str(place))
        encoder = Encoder.load(place, dtype=dtype, attention=attention, device=device)
        return cls(encoder, **arguments)

    def save(self, directory: str | Path) -> None:
        """Write a directory for sentence-transformers 5.3 and 6, transformers and ourselves.

        Raises:
            OutputExistsError: the directory exists and is not ours.
        """
        checkpoint.save(self.encoder, directory, extra=self.write_modules)

    def write_modules(self, directory: Path, at: str = "") -> None:
        """Write what sentence-transformers reads beside the encoder, in the dialect of 5.3.

        The encoder itself is in the sub-folder ``at``.
        """
        config = self.encoder.config
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
                # The lowest versions that read this: a higher one than the reader's makes it warn.
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
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: n documents, none of them empty.
            prompt: a name among ``prompts``, or a text itself, put before every document.
            normalize: scale every vector to length 1.
            truncate_dim: keep only this many leading dimensions, cut before normalising.
            max_length: longest document in tokens, special ones included.
            truncate: cut longer documents (how many is logged) instead of refusing them.
            batch_tokens: tokens of a batch, None for what suits the device.

        Returns:
            float32 array (n, D), row i for text i.

        Raises:
            InputError: an empty text, a document beyond the limit, or an impossible argument.
        """
        ids, _ = self.tokenize(texts, prompt=prompt, max_length=max_length, truncate=truncate)
        return self.embed_ids(
            ids, normalize=normalize, truncate_dim=truncate_dim, batch_tokens=batch_tokens
        )

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        names: Sequence[str] | None = None,
    ) -> tuple[list[list[int]], int]:
        """The first half of `embed`: token ids, and how many texts were truncated.

        An error calls text i by ``names[i]``.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string", how="give a list: embed([text])")

        def name(number: int) -> str:
            return names[number] if names else f"text {number}"

        limit = self.max_length if max_length is None else max_length
        if not 1 <= limit <= self.encoder.config.max_position_embeddings:
            raise InputError(
                f"max_length = {limit} is impossible",
                how=f"the model takes 1 to {self.encoder.config.max_position_embeddings} tokens",
            )
        for number, text in enumerate(texts):
            if not text.strip():
                raise InputError("an empty text has no vector", name(number), "leave it out")
        prompt = prompt if prompt is not None else self.default_prompt
        before = self.prompts.get(prompt, prompt) if prompt is not None else ""
        ids = self.tokenizer.encode_batch([before + text for text in texts])
        long = [number for number, document in enumerate(ids) if len(document) > limit]
        if long and not truncate:
            raise InputError(
                f"{len(ids[long[0]])} tokens are more than the limit of {limit}",
                name(long[0]) + (f" and {len(long) - 1} others" if long[1:] else ""),
                "cut it into pieces, or truncate (truncate=True, --truncate)",
            )
        for number in long:
            ids[number] = self.tokenizer.truncate(ids[number], limit)
        if long:
            log.warning("truncated %d of %d texts to %d tokens", len(long), len(ids), limit)
        return ids, len(long)

    def embed_ids(
        self,
        ids: Sequence[Sequence[int]],
        *,
        normalize: bool = True,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] = lambda documents: None,
    ) -> NDArray[np.float32]:
        """The second half of `embed`; ``on_batch`` is told how many documents each batch had.

        Raises:
            InputError: a document is empty or beyond the encoder's limit, or an id,
                ``truncate_dim`` or ``batch_tokens`` is impossible.
        """
        width = self.encoder.config.hidden_size
        dimensions = width if truncate_dim is None else truncate_dim
        if not 1 <= dimensions <= width:
            raise InputError(f"truncate_dim = {dimensions}", how=f"the vectors have 1..{width}")
        vectors = np.empty((len(ids), dimensions), dtype=np.float32)
        self.encoder.eval()
        lengths = [len(document) for document in ids]
        if batch_tokens is None:
            batch_tokens = batch_budget(sum(lengths), self.encoder.device)
        batches = split_by_tokens(lengths, batch_tokens)

        @torch.inference_mode()
        def embed(batch: list[int]) -> NDArray[np.float32]:
            packed = pack([ids[i] for i in batch])
            pooled = pool(self.encoder(packed), packed, self.pooling)[:, :dimensions].float()
            return (normalized(pooled) if normalize else pooled).cpu().numpy()

        on_cpu = self.encoder.device.type == "cpu"
        done = executor().as_completed(embed, batches) if on_cpu else enumerate(map(embed, batches))
        for number, part in done:
            vectors[batches[number]] = part
            on_batch(len(part))
        return vectors


def read_modules(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Where a sentence-transformers directory has its encoder, and arguments of `Embedder`.

    Of any other directory: itself, and none.

    Raises:
        InputError: a module or a setting that would give other vectors than ours.
    """
    if not (directory / "modules.json").is_file():
        return directory, {}
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
    if length is not None and (not isinstance(length, int) or length < 1):
        raise InputError(f"max_seq_length = {length!r} is no number of tokens", str(limits))
    arguments["max_length"] = length
    arguments["normalize"] = "Normalize" in paths
    if "Pooling" in paths:
        arguments["pooling"] = _read_pooling(paths["Pooling"] / "config.json")
    return place, arguments


def _read_prompts(path: Path) -> dict[str, Any]:
    settings = _read_optional(path)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError("prompts is not a table of names and texts", str(path))
    if default is not None and default not in prompts:
        raise InputError(f"default_prompt_name {default!r} is not among the prompts", str(path))
    return {"prompts": prompts, "default_prompt": default}


def _read_optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise InputError("not a JSON object", str(path))
    return value


def _read_pooling(path: Path) -> Pooling:
    settings = _read_optional(path)
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
            "mean and cls over all tokens are",
        )
    return known[mode]
