"""Prepared text for people: rows as training sees them, and a picture of the lengths."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import require_extra
from ..files import write_file
from .loader import MASKS, masking_of
from .prepared import PreparedDataset


def examples(
    prepared: PreparedDataset, seq_len: int, count: int, rate: float, seed: int
) -> list[dict[str, Any]]:
    """The first rows: pieces with their source, and their text as stretches (hidden, text)."""
    rows = prepared.rows(seq_len)
    masking = masking_of(prepared, rate)
    names = list(prepared.about.sources)
    found = []
    for number in range(min(count, len(rows))):
        ids, lengths, _ = rows.gather([number])
        fed, hidden = masking.mask(ids, (MASKS, seed, 0, 0), (number << 32) + np.arange(len(ids)))
        is_hidden = np.zeros(len(ids), bool)
        is_hidden[hidden] = True
        pieces = []
        end = 0
        for piece, length in zip(rows.of(number), lengths.tolist(), strict=True):
            stretch = range(end, end + length)
            end += length
            text = [
                (bool(key), prepared.tokenizer.decode(fed[list(group)].tolist()))
                for key, group in groupby(stretch, key=is_hidden.__getitem__)
            ]
            source = names[prepared.documents[piece["document"]]["source"]]
            pieces.append({"source": source, "tokens": length, "text": text})
        found.append({"row": number, "pieces": pieces})
    return found


def histogram(prepared: PreparedDataset, path: Path) -> None:
    """Draw how many tokens lie in documents of which length, by source."""
    require_extra("matplotlib", "bench")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    documents = prepared.documents
    longest = max(2, int(documents["tokens"].max()))
    bins = np.geomspace(1, longest + 1, 40)
    axes.hist(
        [documents["tokens"][documents["source"] == i] for i in range(len(prepared.about.sources))],
        bins=bins.tolist(),
        weights=[
            documents["tokens"][documents["source"] == i] / 1e6
            for i in range(len(prepared.about.sources))
        ],
        stacked=True,
        label=list(prepared.about.sources),
    )
    axes.set_xscale("log")
    axes.set_xlabel("tokens of a document")
    axes.set_ylabel("million tokens")
    for length in prepared.about.lengths:
        axes.axvline(int(length), color="grey", linewidth=0.8, linestyle="--")
    axes.legend(fontsize="small")
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
