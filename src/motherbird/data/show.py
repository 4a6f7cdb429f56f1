"""Rows of a prepared dataset as text, and a histogram of document lengths."""

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
    """Return the first rows; the text of each piece is a list of spans (is_masked, text)."""
    rows = prepared.rows(seq_len)
    masking = masking_of(prepared, rate)
    names = list(prepared.about.sources)
    found = []
    for number in range(min(count, len(rows))):
        ids, lengths, _ = rows.gather([number])
        positions = (number << 32) + np.arange(len(ids))
        inputs, masked = masking.mask(ids, (MASKS, seed, 0, 0), positions)
        is_masked = np.zeros(len(ids), bool)
        is_masked[masked] = True
        pieces = []
        end = 0
        for piece, length in zip(rows.pieces_of(number), lengths.tolist(), strict=True):
            span = range(end, end + length)
            end += length
            text = [
                (bool(key), prepared.tokenizer.decode(inputs[list(group)].tolist()))
                for key, group in groupby(span, key=is_masked.__getitem__)
            ]
            source = names[prepared.documents[piece["document"]]["source"]]
            pieces.append({"source": source, "tokens": length, "text": text})
        found.append({"row": number, "pieces": pieces})
    return found


def histogram(prepared: PreparedDataset, path: Path) -> None:
    """Plot the number of tokens by document length and source, as PNG."""
    require_extra("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    documents, count = prepared.documents, len(prepared.about.sources)
    tokens = [documents["tokens"][documents["source"] == number] for number in range(count)]
    longest = max(2, int(documents["tokens"].max()))
    axes.hist(
        tokens,
        bins=np.geomspace(1, longest + 1, 40).tolist(),
        weights=[each / 1e6 for each in tokens],
        stacked=True,
        label=list(prepared.about.sources),
    )
    axes.set_xscale("log")
    axes.set_xlabel("tokens per document")
    axes.set_ylabel("million tokens")
    for length in prepared.about.lengths:
        axes.axvline(int(length), color="grey", linewidth=0.8, linestyle="--")
    axes.legend(fontsize="small")
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
