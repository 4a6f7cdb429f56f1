"""The certificate of an export: how much an exported file differs from the float32 model.

Both are run on the same documents of random tokens. "packed" compares a packed batch of the model
with a padded batch of the file, "one by one" compares each document by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import Float
from ..core import batching
from ..errors import ParityError
from ..nn.packed import pack, unpack
from .models import Exportable

# The outputs by name: for each document an array, (tokens, size) or (size,).
Outputs = dict[str, list[NDArray[np.float32]]]
Runner = Callable[[list[list[int]]], Outputs]

CASES = (*batching.TEST_LENGTHS, (8192,))
LARGEST_OUTPUT = 2**31  # bytes of an output of the longest document
ROWS = 256  # compared at once in float64, which limits the memory for logits
# dtype -> (largest difference relative to the largest value or 1, smallest cosine)
TOLERANCES = {"float32": (1e-4, 0.9999), "int8": (0.5, 0.8)}


@dataclass(frozen=True)
class Agreement:
    """How much two outputs agree."""

    difference: float  # the largest absolute difference
    cosine: float | None  # the smallest cosine of two rows; None if a row is one number
    largest: float  # the largest absolute value of the model's output


@dataclass(frozen=True)
class Case:
    """The agreement of one output for documents of some lengths."""

    lengths: tuple[int, ...]
    output: str
    packed: Agreement
    one_by_one: Agreement


@dataclass(frozen=True)
class Certificate:
    """The fields of certificate.json; ``difference`` and ``cosine`` are the worst of all cases."""

    model: str
    head: str
    format: str
    dtype: str
    file: str
    versions: dict[str, str]
    machine: dict[str, str]
    tolerance: dict[str, float]
    difference: float
    cosine: float | None
    passed: bool
    cases: tuple[Case, ...]


def reference(exported: Exportable) -> Runner:
    """Run the exported model itself, on packed batches."""

    @torch.inference_mode()
    def run(documents: list[list[int]]) -> Outputs:
        packed = pack(documents)
        outputs = {}
        for name, values in exported.compute(packed).items():
            per_token = exported.outputs[name][0] == "tokens"
            outputs[name] = [x.numpy() for x in (unpack(values, packed) if per_token else values)]
        return outputs

    return run


def padded(
    infer: Callable[[dict[str, NDArray[np.int64]]], dict[str, NDArray[np.float32]]], pad: int
) -> Runner:
    """Run a padded model: documents are padded on the right, and outputs cut to their lengths.

    Args:
        infer: runs a batch, from inputs by name to outputs by name.
        pad: the id of the padding token.
    """

    def run(documents: list[list[int]]) -> Outputs:
        ids, mask = batching.pad(documents, pad)
        return {
            name: [
                row[: len(document)] if rows.ndim == 3 else row
                for row, document in zip(rows, documents, strict=True)
            ]
            for name, rows in infer({"input_ids": ids, "attention_mask": mask}).items()
        }

    return run


def cases(limit: int, size: int) -> list[tuple[int, ...]]:
    """Return the lengths of CASES, shortened for a model.

    Args:
        limit: largest number of tokens of a document.
        size: numbers in the output for a token; no output may exceed `LARGEST_OUTPUT`.
    """
    longest = max(1, min(limit, LARGEST_OUTPUT // (4 * size)))
    return list(dict.fromkeys(tuple(min(n, longest) for n in lengths) for lengths in CASES))


def compare(
    reference: Runner,
    exported: Runner,
    lengths: Sequence[tuple[int, ...]],
    vocab_size: int,
    on_case: Callable[[int], None] = lambda tokens: None,
) -> list[Case]:
    """Run both on the same documents of random tokens.

    Args:
        reference: the model.
        exported: the file.
        lengths: lengths of the documents of each case.
        vocab_size: tokens are drawn below it.
        on_case: called with the number of tokens of each case that is done.
    """
    rng = np.random.default_rng(0)
    found = []
    for case in lengths:
        documents = [rng.integers(0, vocab_size, length).tolist() for length in case]
        together = _measure(reference(documents), exported(documents))
        alone = together
        if len(documents) > 1:
            singles = [_measure(reference([one]), exported([one])) for one in documents]
            alone = {name: _worst([single[name] for single in singles]) for name in together}
        found += [Case(case, name, together[name], alone[name]) for name in together]
        on_case(sum(case))
    return found


def _measure(expected: Outputs, found: Outputs) -> dict[str, Agreement]:
    """Return the agreement of each output over all documents."""
    return {
        name: _worst([_rows(a, b) for a, b in zip(values, found[name], strict=True)])
        for name, values in expected.items()
    }


def _rows(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> Agreement:
    """Return the agreement of an output of one document; NaN if the shapes differ."""
    if a.shape != b.shape:
        return Agreement(np.nan, np.nan, np.nan)
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    parts = []
    for start in range(0, len(a), ROWS):
        x, y = (side[start : start + ROWS].astype(np.float64) for side in (a, b))
        lengths = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (x * y).sum(1) / (lengths[0] * lengths[1])
        cosines[(lengths[0] == 0) & (lengths[1] == 0)] = 1.0
        cosine = float(cosines.min()) if x.shape[1] > 1 else None
        parts.append(Agreement(float(abs(x - y).max()), cosine, float(abs(x).max())))
    return _worst(parts)


def _worst(parts: Sequence[Agreement]) -> Agreement:
    """Return the worst of several; unlike Python's, NumPy's max and min keep NaN."""
    cosines = [part.cosine for part in parts if part.cosine is not None]
    return Agreement(
        float(np.max([part.difference for part in parts])),
        float(np.min(cosines)) if cosines else None,
        float(np.max([part.largest for part in parts])),
    )


def check(found: Sequence[Case], dtype: str, file: str) -> Agreement:
    """Return the worst agreement of all cases.

    Raises:
        ParityError: a case is outside the tolerance of the dtype.
    """
    difference, cosine = TOLERANCES[dtype]
    for case in found:
        for mode, agreement in (("packed", case.packed), ("one by one", case.one_by_one)):
            allowed = difference * max(1.0, agreement.largest)
            # Written so that NaN, for which every comparison is false, fails.
            close = agreement.cosine is None or agreement.cosine >= cosine
            if not (agreement.difference <= allowed and close):
                shown = "" if agreement.cosine is None else f", cosine {agreement.cosine:.6g}"
                raise ParityError(
                    f"the exported {case.output} differs from the model's by "
                    f"{agreement.difference:.2g}{shown} (allowed: {allowed:.2g}, {cosine:g})",
                    f"{file}, {mode}, documents of {', '.join(map(str, case.lengths))} tokens",
                    "nothing was written; try --dtype float32, or another version of the runtime",
                )
    return _worst([agreement for case in found for agreement in (case.packed, case.one_by_one)])
