"""motherbird: a ModernBERT encoder that is never padded.

Public names are imported when they are first used, so that ``import motherbird`` and the command
line's help cost milliseconds and never import torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .core import presets as presets
    from .core.config import EncoderConfig as EncoderConfig
    from .core.tokenizer import Tokenizer as Tokenizer
    from .core.tokenizer import tokenizer as tokenizer
    from .errors import DamagedError as DamagedError
    from .errors import InputError as InputError
    from .errors import MotherbirdError as MotherbirdError
    from .models.accelerate import accelerate as accelerate
    from .models.accelerate import restore as restore
    from .models.embedder import Embedder as Embedder
    from .nn.encoder import Encoder as Encoder
    from .nn.heads import MaskedLM as MaskedLM
    from .nn.heads import SequenceClassifier as SequenceClassifier
    from .nn.heads import TokenClassifier as TokenClassifier
    from .nn.packed import Packed as Packed
    from .nn.packed import pack as pack
    from .nn.packed import repad as repad
    from .nn.packed import split_by_tokens as split_by_tokens
    from .nn.packed import unpack as unpack

_HOME = {
    "DamagedError": "errors",
    "Embedder": "models.embedder",
    "Encoder": "nn.encoder",
    "EncoderConfig": "core.config",
    "InputError": "errors",
    "MaskedLM": "nn.heads",
    "MotherbirdError": "errors",
    "Packed": "nn.packed",
    "SequenceClassifier": "nn.heads",
    "TokenClassifier": "nn.heads",
    "Tokenizer": "core.tokenizer",
    "accelerate": "models.accelerate",
    "pack": "nn.packed",
    "presets": "core",
    "repad": "nn.packed",
    "restore": "models.accelerate",
    "split_by_tokens": "nn.packed",
    "tokenizer": "core.tokenizer",
    "unpack": "nn.packed",
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
