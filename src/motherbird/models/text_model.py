"""The base class of models that take texts: tokenize, batch, compute, restore the order."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from ..arrays import Float32
from ..core import hub, weights
from ..core.arguments import (
    Documents,
    check_flag,
    check_ids,
    check_integer,
    check_names,
    check_path,
    check_text,
    check_texts,
    check_type,
)  # fmt: skip
from ..core.batching import check_batch, concatenate, split_by_tokens
from ..core.inference import InferenceModel, Output, Vectors, check_output
from ..core.tokenizer import Tokenizer
from ..engine.model import NativeModel
from ..errors import InputError
from ..files import new_directory

if TYPE_CHECKING:
    import torch

    from ..nn.model import Model

log = logging.getLogger(__name__)

T = TypeVar("T", bound="TextModel")


class TextModel:
    """A model with its tokenizer; subclasses turn its arrays into results.

    Args:
        model: computes the outputs: a torch model (`motherbird.nn`), or any `InferenceModel`.
        max_length: maximum number of tokens per text; None is the encoder's limit.
        prompts: text to put before a document, by name.
        default_prompt: name of the prompt that is used unless another is given.

    Raises:
        InputError: the model is not one of motherbird, or another argument is invalid.
    """

    head: ClassVar[str | None] = None  # the class in `motherbird.nn` whose logits are needed
    # what `batches` has logits for: each token or each document; None: it has none
    logits_of: ClassVar[Literal["tokens", "documents"] | None] = None

    def __init__(
        self,
        model: "Model | InferenceModel",
        max_length: int | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
    ) -> None:
        if not isinstance(model, InferenceModel):
            from ..nn.inference import TorchModel

            model = TorchModel(model)
        limit = model.config.max_position_embeddings
        self.model = model
        self._check_model()
        if max_length is not None:
            max_length = check_integer(max_length, "max_length", 1)
        self.max_length = min(limit, max_length or limit)
        self.prompts = check_type(prompts or {}, "prompts", dict)
        for name, prompt in self.prompts.items():
            check_text(prompt, f"prompt {name!r}", allow_empty=True)
        self.default_prompt = default_prompt
        self.find_prompt()

    def _check_model(self) -> None:
        """Raise InputError if the model does not have the head that this class needs."""
        if self.head is None:
            return
        name = type(self).__name__
        how = f"load the model with {name}.load, or add a head with motherbird.nn.{self.head}"
        if isinstance(self.model, NativeModel):
            if type(self.model.head).__name__ != self.head:
                raise InputError(f"the model has no head of {self.head}", how=how)
            return
        from .. import nn
        from ..nn.inference import TorchModel

        if isinstance(self.model, TorchModel):
            check_type(self.model.model, "the model", getattr(nn, self.head), how)

    @classmethod
    def load(
        cls: type[T],
        name_or_dir: str | Path,
        *,
        dtype: "torch.dtype | str" = "auto",
        attention: str = "auto",
        device: "torch.device | str | None" = None,
        revision: str | None = None,
        split_special_tokens: bool = False,
    ) -> T:
        """Load a checkpoint of the ModernBERT family.

        On a CPU the engine computes it, and torch is not imported.

        Args:
            name_or_dir: a Hugging Face directory, or a name on the Hub.
            dtype: "auto" is bfloat16 where the CPU or GPU has instructions for it, else float32.
                "int8" computes all but the first layers in 8 bits (`engine.quantize`). Others
                need torch: "float16", "float64", a torch dtype, or "stored", that of the file.
            attention: an attention kernel of `nn.Encoder`, which needs torch, or "auto".
            device: a torch device or its name; None is the CPU.
            revision: branch, tag or commit on the Hub.
            split_special_tokens: of the tokenizer; see `Tokenizer`.

        Raises:
            InputError: there is no such model, it is of another architecture, it has no head of
                this class, or it cannot run as asked.
            DamagedError: the weights are truncated, changed, incomplete or not finite.
        """
        return cls._load(
            hub.find(name_or_dir, revision), dtype=dtype, attention=attention, device=device,
            split_special_tokens=split_special_tokens,
        )  # fmt: skip

    @classmethod
    def _load(cls: type[T], directory: Path, **options: Any) -> T:
        """Load from a local directory, with options of `backend.load`."""
        raise NotImplementedError

    @property
    def module(self) -> "Model":
        """The torch model, to train or to save.

        Raises:
            InputError: this model does not run on torch.
        """
        from ..nn.inference import TorchModel

        if not isinstance(self.model, TorchModel):
            name, cls = type(self).__name__, self.head or "Encoder"
            how = f"use {name}(motherbird.nn.{cls}.load(...))"
            raise InputError(f"this {name} does not run on torch", how=how)
        return self.model.model

    def save(
        self,
        directory: str | Path,
        write_more: Callable[[Path], object] = lambda directory: None,
    ) -> None:
        """Write a directory that motherbird and the libraries of Hugging Face read.

        On the engine, the files are those that the model was loaded from.

        Args:
            directory: new, empty, or written by motherbird before; then it is replaced.
            write_more: writes further files into the directory before it gets its name.

        Raises:
            InputError: these files were changed since then.
            OutputExistsError: the directory exists and was not written by motherbird.
        """
        model = self.model
        if not isinstance(model, NativeModel) or model.directory is None:
            from ..nn import checkpoint

            def write_all(fresh: Path) -> None:
                self._write_more(fresh)
                write_more(fresh)

            checkpoint.save(self.module, directory, write_more=write_all)
            return
        with new_directory(check_path(directory, "the directory"), "model") as fresh:
            weights.copy_files(model.directory, model.files, fresh)
            self._write_more(fresh)
            write_more(fresh)

    def _write_more(self, directory: Path) -> None:
        """Write what belongs to this class into a directory with the model's files."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            InputError: the model was loaded without one.
        """
        if self.model.tokenizer is None:
            raise InputError(
                "the model has no tokenizer", how="put tokenizer.json into its directory"
            )
        return self.model.tokenizer

    def tokenize(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        names: Sequence[str] | None = None,
    ) -> tuple[list[list[int]], int]:
        """Convert texts to token ids, with the special tokens of the tokenizer's template.

        Arguments and errors are those of `Embedder.embed`. Errors call the texts by ``names``;
        "text 0", "text 1" ... by default.

        Returns:
            The ids of each text, and how many texts were truncated.
        """
        limit = self._limit(max_length, truncate)
        prefix = self.find_prompt(prompt_name, prompt)
        texts = check_texts(texts, names)
        names = check_names(names, len(texts))
        ids = self.tokenizer.encode_batch([prefix + text for text in texts])
        is_long = any(len(document) > limit for document in ids)
        if is_long and prefix.strip():
            used = len(self.tokenizer.encode(prefix.rstrip()))  # a space may join the text's word
            if used >= limit:
                what = f"the prompt has {used} tokens and leaves no room for text within {limit}"
                raise InputError(what, how="use a shorter prompt or a larger max_length")
        more = " with the prompt" if prefix else ""
        long = self._too_long(ids, limit, truncate, names, more=more)
        for number in long:
            ids[number] = self.tokenizer.truncate(ids[number], limit)
        warn_truncated(len(long), len(ids), limit)
        return ids, len(long)

    def _limit(self, max_length: int | None, truncate: bool) -> int:
        """Return the maximum number of tokens of a text, after a check of both arguments."""
        check_flag(truncate, "truncate")
        limit = self.max_length if max_length is None else max_length
        return check_integer(limit, "max_length", 1, self.model.config.max_position_embeddings)

    def _too_long(
        self,
        ids: Sequence[Sequence[int]],
        limit: int,
        truncate: bool,
        names: Sequence[str],
        noun: str = "text",
        more: str = "",
    ) -> list[int]:
        """Return the indices of documents above the limit, which the caller truncates.

        ``noun`` is what an error calls a document, and ``more`` what else its tokens are of.

        Raises:
            InputError: there is one, and it may not be truncated.
        """
        long = [number for number, document in enumerate(ids) if len(document) > limit]
        if long and not truncate:
            others = f" and {len(long) - 1} more" if long[1:] else ""
            raise InputError(
                f"the {noun} has {len(ids[long[0]])} tokens{more}, the limit is {limit}",
                names[long[0]] + others,
                f"split the {noun}, or truncate it (truncate=True, --truncate)",
            )
        return long

    def find_prompt(self, name: str | None = None, text: str | None = None) -> str:
        """Return the prompt of a name, the given text, or the default prompt if both are None.

        Raises:
            InputError: both are given, there is no prompt of this name, or the text is not one.
        """
        if text is not None:
            if name is not None:
                raise InputError("prompt_name and prompt exclude each other", how="give one")
            return check_text(text, "the prompt", allow_empty=True)
        name = self.default_prompt if name is None else name
        if name is not None and check_type(name, "prompt_name", str) not in self.prompts:
            known = f"the model has {', '.join(map(repr, self.prompts))}" if self.prompts else (
                "the model has no prompts; prompt (--prompt) takes a text")  # fmt: skip
            raise InputError(f"there is no prompt called {name!r}", how=known)
        return "" if name is None else self.prompts[name]

    def _pad_id(self) -> int | None:
        """Return the id that only padding has; None if there is none."""
        tokenizer = self.model.tokenizer
        if tokenizer is None or "pad" not in tokenizer.special:
            return None
        pad_id = tokenizer.id_of("pad")
        # Some tokenizers pad with the token that ends a text, or with the mask, as ColBERT does.
        others = [tokenizer.id_of(role) for role in tokenizer.special if role != "pad"]
        return None if pad_id in (*others, *tokenizer.encode("a")) else pad_id

    def batches(
        self,
        ids: Documents,
        output: Output,
        *,
        batch_tokens: int | None = None,
    ) -> Iterator[tuple[list[int], list[Float32[np.ndarray, "..."]]]]:
        """Compute documents in batches of similar length, on all cores.

        Args:
            ids: token ids of each document, without padding.
            output: what to compute, see `motherbird.core.inference`.
            batch_tokens: tokens of a batch; None is what suits the device.

        Yields:
            For each batch that is done, the indices of its documents, and an array for each: (D,)
            for pooled vectors, (tokens, D) for token vectors, and (C,) or (tokens, C) for logits.

        Raises:
            InputError: a document is empty or too long, an id or another argument is invalid, or a
                document begins or ends with the pad token of the tokenizer, if there is one.
        """
        check_output(output, Vectors if self.logits_of is None else Output)
        per_token = (self.logits_of if output == "logits" else output) == "tokens"
        documents = check_ids(ids, self._pad_id())
        if documents:  # else an error would name a document by its place in a batch
            check_batch(*concatenate(documents), self.model.config)
        lengths = [len(document) for document in documents]
        if batch_tokens is None:
            batch_tokens = self.model.batch_budget(sum(lengths))
        batches = split_by_tokens(lengths, batch_tokens)

        def compute(batch: list[int]) -> list[Float32[np.ndarray, "..."]]:
            packed, cu_seqlens = concatenate([documents[number] for number in batch])
            rows = self.model.run(packed, cu_seqlens, output)
            return np.split(rows, cu_seqlens[1:-1]) if per_token else list(rows)

        yield from zip(batches, self.model.map(compute, batches), strict=True)


def warn_truncated(truncated: int, total: int, limit: int, noun: str = "text") -> None:
    """Log how many texts were truncated, if any."""
    if truncated:
        log.warning("truncated %d of %d %ss to %d tokens", truncated, total, noun, limit)


def softmax(logits: Float32[np.ndarray, "*rows C"]) -> Float32[np.ndarray, "*rows C"]:
    """Return the probabilities of each row of logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
