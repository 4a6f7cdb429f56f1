"""The encoder and its heads in PyTorch.

Names are imported when they are first used, as in `motherbird` itself.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoder import Encoder as Encoder
    from .heads import MaskedLM as MaskedLM
    from .heads import SequenceClassifier as SequenceClassifier
    from .heads import TokenClassifier as TokenClassifier
    from .packed import Packed as Packed
    from .packed import pack as pack
    from .packed import repad as repad
    from .packed import unpack as unpack

_HOMES = {
    "Encoder": "encoder",
    "MaskedLM": "heads",
    "Packed": "packed",
    "SequenceClassifier": "heads",
    "TokenClassifier": "heads",
    "pack": "packed",
    "repad": "packed",
    "unpack": "packed",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
