"""motherbird: a ModernBERT encoder that is never padded.

Public names are imported when they are first used, so that ``import motherbird`` and the command
line's help cost milliseconds and never import torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .core import presets as presets
    from .core.config import EncoderConfig as EncoderConfig
    from .core.heads import MaskedLM as MaskedLM
    from .core.heads import SequenceClassifier as SequenceClassifier
    from .core.heads import TokenClassifier as TokenClassifier
    from .core.model import Encoder as Encoder
    from .core.packed import Packed as Packed
    from .core.packed import pack as pack
    from .core.packed import repad as repad
    from .core.packed import split_by_tokens as split_by_tokens
    from .core.packed import unpack as unpack
    from .core.tokenizer import Tokenizer as Tokenizer
    from .core.tokenizer import tokenizer as tokenizer
    from .errors import DamagedError as DamagedError
    from .errors import InputError as InputError
    from .errors import MotherbirdError as MotherbirdError
    from .tasks.accelerate import accelerate as accelerate
    from .tasks.accelerate import restore as restore
    from .tasks.dense import Embedder as Embedder

_HOME = {
    "DamagedError": "errors",
    "Embedder": "tasks.dense",
    "Encoder": "core.model",
    "EncoderConfig": "core.config",
    "InputError": "errors",
    "MaskedLM": "core.heads",
    "MotherbirdError": "errors",
    "Packed": "core.packed",
    "SequenceClassifier": "core.heads",
    "TokenClassifier": "core.heads",
    "Tokenizer": "core.tokenizer",
    "accelerate": "tasks.accelerate",
    "pack": "core.packed",
    "presets": "core",
    "repad": "core.packed",
    "restore": "tasks.accelerate",
    "split_by_tokens": "core.packed",
    "tokenizer": "core.tokenizer",
    "unpack": "core.packed",
}
__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'motherbird' has no attribute {name!r}")
    from importlib import import_module

    if name == "presets":
        return import_module("motherbird.core.presets")
    return getattr(import_module(f"motherbird.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
