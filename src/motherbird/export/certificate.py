"""A certificate of parity: how far an exported file is from our own float32 encoder.

Both are run on the same documents of random tokens. "packed" compares our documents in one pack
with the file's padded batch, "one by one" every document alone on both sides.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch.nn.functional import normalize

from ..errors import ParityError
from ..models.embedder import Embedder
from ..nn.encoder import Encoder
from ..nn.heads import SequenceClassifier, pool
from ..nn.packed import pack, unpack

# Documents to the outputs by name: for each document one array, (tokens, width) or (width,).
Outputs = dict[str, list[NDArray[np.float32]]]
Run = Callable[[list[list[int]]], Outputs]

CASES = ((1,), (64, 65), (129, 129), (300, 150, 60), (1024, 4), (8192,))
LARGEST_OUTPUT = 2**31  # bytes of one output of the longest document
ROWS = 256  # compared at a time in float64, which keeps the memory for wide logits small
# dtype -> (largest difference, as a part of the largest value or of 1; smallest cosine)
TOLERANCES = {"float32": (1e-4, 0.9999), "int8": (0.5, 0.8)}


@dataclass(frozen=True)
class Agreement:
    """How near two outputs are.

    Attributes:
        difference: the largest absolute one.
        cosine: the smallest of two rows; None where a row is one number.
        largest: the largest absolute value of our own output.
    """

    difference: float
    cosine: float | None
    largest: float


@dataclass(frozen=True)
class Case:
    """One output for documents of these lengths."""

    lengths: tuple[int, ...]
    output: str
    packed: Agreement
    one_by_one: Agreement


@dataclass(frozen=True)
class Certificate:
    """What was compared, where, and how near the two are: the fields of certificate.json.

    ``difference`` and ``cosine`` are the worst of all cases.
    """

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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ours(model: Any) -> Run:
    """Our own model, packed."""

    @torch.inference_mode()
    def run(documents: list[list[int]]) -> Outputs:
        packed = pack(documents)
        if isinstance(model, Embedder):
            hidden = model.encoder(packed)
            vectors = pool(hidden, packed, model.pooling)
            vectors = normalize(vectors) if model.normalize else vectors
            outputs = {
                "token_embeddings": unpack(hidden, packed),
                "sentence_embedding": list(vectors),
            }
        elif isinstance(model, SequenceClassifier):
            outputs = {"logits": list(model(packed))}
        else:
            name = "last_hidden_state" if isinstance(model, Encoder) else "logits"
            outputs = {name: unpack(model(packed), packed)}
        return {name: [x.numpy() for x in values] for name, values in outputs.items()}

    return run


def padded(
    infer: Callable[[dict[str, NDArray[np.int64]]], dict[str, NDArray[np.float32]]], pad: int
) -> Run:
    """A runtime that takes a rectangle: documents are padded on the right, outputs cut back."""

    def run(documents: list[list[int]]) -> Outputs:
        longest = max(map(len, documents))
        ids: Int[np.ndarray, "S longest"] = np.full((len(documents), longest), pad, np.int64)
        for row, document in zip(ids, documents, strict=True):
            row[: len(document)] = document
        lengths = np.array([len(document) for document in documents])
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        return {
            name: [
                row[: len(document)] if rows.ndim == 3 else row
                for row, document in zip(rows, documents, strict=True)
            ]
            for name, rows in infer({"input_ids": ids, "attention_mask": mask}).items()
        }

    return run


def cases(limit: int, width: int) -> list[tuple[int, ...]]:
    """The lengths of CASES as far as a model of this limit, and of this many outputs a token, goes.

    A document whose outputs alone would fill two gigabytes is cut.
    """
    longest = max(1, min(limit, LARGEST_OUTPUT // (4 * width)))
    return list(dict.fromkeys(tuple(min(n, longest) for n in lengths) for lengths in CASES))


def compare(
    ours: Run,
    theirs: Run,
    lengths: Sequence[tuple[int, ...]],
    vocab_size: int,
    on_case: Callable[[int], None] = lambda tokens: None,
) -> list[Case]:
    """Run both on documents of random tokens, the same ones whoever asks.

    ``on_case`` is told the tokens of each case that is done.
    """
    chance = np.random.default_rng(0)
    found = []
    for case in lengths:
        documents = [chance.integers(0, vocab_size, length).tolist() for length in case]
        together = _measure(ours(documents), theirs(documents))
        alone = together
        if len(documents) > 1:
            singles = [_measure(ours([one]), theirs([one])) for one in documents]
            alone = {name: _worst([single[name] for single in singles]) for name in together}
        found += [Case(case, name, together[name], alone[name]) for name in together]
        on_case(sum(case))
    return found


def _measure(ours: Outputs, theirs: Outputs) -> dict[str, Agreement]:
    """For each output the agreement over all documents."""
    return {
        name: _worst([_rows(a, b) for a, b in zip(values, theirs[name], strict=True)])
        for name, values in ours.items()
    }


def _rows(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> Agreement:
    """Two outputs for one document; another shape counts as NaN."""
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
    """Of several one; numpy's max and min, unlike Python's, never lose a NaN."""
    cosines = [part.cosine for part in parts if part.cosine is not None]
    return Agreement(
        float(np.max([part.difference for part in parts])),
        float(np.min(cosines)) if cosines else None,
        float(np.max([part.largest for part in parts])),
    )


def check(found: Sequence[Case], dtype: str, file: str) -> Agreement:
    """The worst of all cases, if every one is within the tolerance of ``dtype``.

    Raises:
        ParityError: one is not, naming it.
    """
    difference, cosine = TOLERANCES[dtype]
    for case in found:
        for way, agreement in (("packed", case.packed), ("one by one", case.one_by_one)):
            allowed = difference * max(1.0, agreement.largest)
            # Written so that NaN, which is neither above nor below anything, fails.
            near = agreement.cosine is None or agreement.cosine >= cosine
            if not (agreement.difference <= allowed and near):
                shown = "" if agreement.cosine is None else f", cosine {agreement.cosine:.6g}"
                raise ParityError(
                    f"the exported {case.output} differs from the model's by "
                    f"{agreement.difference:.2g}{shown} (allowed: {allowed:.2g}, {cosine:g})",
                    f"{file}, {way}, documents of {', '.join(map(str, case.lengths))} tokens",
                    "nothing was written; try --dtype float32, or another version of the runtime",
                )
    return _worst([agreement for case in found for agreement in (case.packed, case.one_by_one)])


def machine() -> dict[str, str]:
    """Where the comparison was made."""
    has = torch.cpu.get_capabilities()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": str(has.get("cpu_name") or platform.processor()),
    }
