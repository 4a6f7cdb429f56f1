"""Long documents: the passages that they are divided into, counted in tokens or in words."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from ..core import hub
from ..core.arguments import check_integer, check_text
from ..core.tokenizer import Tokenizer, load
from ..errors import InputError
from ..models import late_files
from ..models.modules import is_late, read_modules
from .embedders import is_ours

# whole: all tokens; first: the first ones; passages: the score is that of the best passage
Reading = Literal["whole", "first", "passages"]
Divide = Callable[[Sequence[str]], list[list[str]]]  # texts to the passages of each
PASSAGE = 512  # tokens
WORDS = 0.75  # words of a token


def open_divide(
    name_or_dir: str, reading: Reading, tokens: int = PASSAGE, *, revision: str | None = None
) -> Divide | None:
    """Return what divides documents for a model.

    Tokens are those of the model's tokenizer, without special tokens and the prompt. For static
    vectors and models of other architectures, a passage has 0.75 words for each token.

    Args:
        name_or_dir: a model of `open_embedder` or `open_late`.
        reading: "first": a document has its first passage only; "whole" gives None.
        tokens: of a passage.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: there is no such model, or an argument is invalid.
    """
    tokens = check_integer(tokens, "tokens", 1)
    if reading == "whole":
        return None
    directory = hub.find(name_or_dir, revision)
    if is_ours(directory):
        place, _ = late_files.read(directory) if is_late(directory) else read_modules(directory)
        divide = by_tokens(load(place), tokens)
    else:
        divide = by_words(max(1, round(WORDS * tokens)))
    if reading == "passages":
        return divide
    return lambda texts: [passages[:1] for passages in divide(texts)]


def by_tokens(tokenizer: Tokenizer, size: int) -> Divide:
    """Return what divides texts into passages of ``size`` tokens; the last one may be shorter."""
    return lambda texts: [
        _cut(text, [span for span in found.offsets if span[1] > span[0]], size)
        for text, found in zip(texts, tokenizer.encode_offsets(texts), strict=True)
    ]


def by_words(size: int) -> Divide:
    """Return what divides texts into passages of ``size`` words; the last one may be shorter."""
    return lambda texts: [
        _cut(text, [word.span() for word in re.finditer(r"\S+", text)], size) for text in texts
    ]


def _cut(text: str, spans: Sequence[tuple[int, int]], size: int) -> list[str]:
    """Divide a text after every ``size`` spans; passages without a visible character are left out.

    A text of one passage stays as it is.
    """
    if len(spans) <= size:
        return [text]
    parts = [spans[first : first + size] for first in range(0, len(spans), size)]
    return [*_visible(text[part[0][0] : part[-1][1]] for part in parts)] or [text]


def _visible(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        try:
            yield check_text(text)
        except InputError:
            continue
