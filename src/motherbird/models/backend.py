"""Chooses what computes a model: the engine on a CPU, torch on a GPU and for other dtypes."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.inference import InferenceModel
from ..engine import library
from ..engine.model import NativeModel
from ..errors import InputError, require_extra

if TYPE_CHECKING:
    import torch

    from ..nn.model import Model

DTYPES = ("auto", "float32", "bfloat16", "int8", "float16", "float64", "stored")


def load(
    directory: Path,
    head: str | None = None,
    *,
    dtype: "torch.dtype | str" = "auto",
    attention: str = "auto",
    device: "torch.device | str | None" = None,
    split_special_tokens: bool = False,
) -> InferenceModel:
    """Load a model from a local directory.

    Args:
        directory: a Hugging Face directory.
        head: the class in `motherbird.nn` whose logits are needed, or None for the encoder.
        dtype: see `Embedder.load`.
        attention: an attention kernel of torch, or "auto".
        device: a torch device or its name; None is the CPU.
        split_special_tokens: of the tokenizer; see `Tokenizer`.

    Raises:
        InputError: it cannot run as asked, or needs torch, which is not installed.
        DamagedError: the weights are truncated, changed, incomplete or not finite.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}", how=f"use {', '.join(DTYPES[:-1])}")
    place = str("cpu" if device is None else device)
    if place == "cpu" and attention == "auto" and library.computes(name):
        return NativeModel.load(directory, name, head, split_special_tokens)
    if name == "int8":
        what = f"attention {attention!r}" if attention != "auto" else f"device {place!r}"
        how = "leave it out, or use another dtype"
        raise InputError(f"{what} needs torch, which does not compute in int8", how=how)
    require_extra("torch", "train")
    from .. import nn
    from ..nn.inference import TorchModel

    cls: type[Model] = getattr(nn, head or "Encoder")
    return TorchModel(cls.load(
        directory, dtype=dtype, attention=attention, device=device,
        split_special_tokens=split_special_tokens,
    ))  # fmt: skip
