"""A sample of short texts from files, on which a student learns the vectors of a teacher."""

import heapq
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.rng import random_bits
from ..errors import DamagedError, InputError
from .readers.document import Record
from .readers.records import records

# Columns whose texts are taken where no column is named.
COLUMNS = ("text", "title", "anchor", "positive", "query", "document", "question", "answer",
           "passage", "sentence")  # fmt: skip
WHOLE = 100  # words of a text that is not divided, at most
# Words of a passage that is cut from a longer text: half have less than 40, so that a student sees
# long passages too, at little cost.
WORDS = (8, 200)
SHORT = (3, 12)  # of one that stands for a query
SHORT_SHARE = 0.15  # of the passages


def sample_texts(
    paths: Sequence[str | Path], count: int, seed: int, columns: Sequence[str] = ()
) -> list[str]:
    """Return different texts in random order, equally many of each file as far as it has them.

    A text of more than 100 words is divided into passages of 8 to 200 words, short ones more often
    than long ones, some of which are shortened to 3 to 12 words.

    Args:
        paths: files of `readers.records.records`.
        count: number of texts, at most.
        seed: decides which.
        columns: columns or fields of the texts; by default those of `COLUMNS` that a file has.

    Raises:
        InputError: a file cannot be read, has none of the columns, or there is no text.
    """
    pools = [_pool(Path(path), count, (seed, number), columns) for number, path in enumerate(paths)]
    chosen: dict[str, int] = {}  # the random numbers of texts
    # The smallest pool first, so that what it lacks is divided among the others.
    for left, pool in zip(range(len(pools), 0, -1), sorted(pools, key=len), strict=True):
        own = [(text, rank) for rank, text in pool if text not in chosen]
        chosen.update(own[: (count - len(chosen)) // left])
    texts = sorted(chosen, key=lambda text: (chosen[text], text))
    if not texts:
        raise InputError("there is no text", ", ".join(map(str, paths)))
    return texts


def _pool(
    path: Path, most: int, key: tuple[int, int], columns: Sequence[str]
) -> list[tuple[int, str]]:
    """Return at most so many texts of a file, all different, in the order of random numbers."""
    heap: list[tuple[int, str]] = []  # the smallest numbers, negated
    known: set[str] = set()  # the texts in it
    limit = 2**64  # a larger number does not get into it
    found = False
    for number, row in enumerate(records(path)):
        if isinstance(row, DamagedError):
            raise row
        names = [name for name in columns or COLUMNS if name in row.values]
        found = found or bool(names)
        for place, name in enumerate(names):
            whole = _text(row, name)
            for rank, own in _passages(whole, (*key, number, place)):
                if rank > limit or (text := whole[own]) in known:
                    continue
                known.add(text)
                heapq.heappush(heap, (-rank, text))
                if len(heap) > most:
                    known.remove(heapq.heappop(heap)[1])
                    limit = -heap[0][0]
    if not found:
        how = f"name one with --column; by default {', '.join(COLUMNS)}"
        raise InputError("no row has a column of texts", str(path), how)
    return sorted((-rank, text) for rank, text in heap)


def _text(row: Record, name: str) -> str:
    value = row.values[name]
    if not isinstance(value, str | None):
        raise InputError(f'"{name}" is not a text', row.where)
    return (value or "").strip()


def _passages(text: str, key: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Yield where the passages of a text are, each with a random number."""
    count = len(text.split(None, WHOLE))
    if count <= WHOLE:
        if count:
            yield int(random_bits(key, 0)), slice(None)
        return
    words = [word.span() for word in re.finditer(r"\S+", text)]
    # Numbers for as many passages as there can be: its rank, its length, whether it is short.
    drawn = random_bits(key, range(3 * (len(words) // WORDS[0] + 1))).tolist()
    first, shortened = 0, int(SHORT_SHARE * 2**64)
    while len(words) - first >= WORDS[0]:
        rank, length, short = drawn.pop(), drawn.pop(), drawn.pop()
        size = int(WORDS[0] * (WORDS[1] / WORDS[0]) ** (length / 2**64))
        last = min(len(words), first + size) - 1
        end = last
        if short < shortened:
            end = min(last, first + SHORT[0] + length % (SHORT[1] - SHORT[0] + 1) - 1)
        yield rank, slice(words[first][0], words[end][1])
        first = last + 1
