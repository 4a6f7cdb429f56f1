"""Static vectors learned from a teacher: a vector for each token, and a text is their mean.

The table begins as the teacher's vectors of the tokens, each weighted by 1e-4 / (1e-4 + its
frequency) (Arora et al. 2017, "A simple but tough-to-beat baseline"), and a linear layer begins as
the identity. Both are trained so that the vectors of texts have the direction of the teacher's, and
the pairs of texts of a batch the teacher's cosines. The layer is multiplied into the table. A
rotation puts the dimensions in the order of how much they vary, so that the first ones can be used
alone.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, mse_loss, normalize

from .. import machine
from ..core import hub
from ..data.samples import sample_texts
from ..errors import InputError
from ..files import check_replaceable, read_json_object, resumable_directory, sha256
from ..models.static_embedder import TOKENIZER, StaticEmbedder, read_tokenizer
from .teacher import Teacher

INFO = "distill.json"
FREQUENCY = 1e-4  # at which a token has half of its weight
HELD_OUT = 50  # every so many texts are not trained on
BATCH = 256  # texts of a step
COSINES = 100  # weight of the squared error of the cosines of pairs


def distill_static(
    teacher: str,
    tokenizer: str,
    data: Sequence[str | Path],
    out: Path,
    *,
    columns: Sequence[str] = (),
    texts: int = 120_000,
    epochs: int = 6,
    lr: float = 5e-4,
    dimensions: int | None = None,
    seed: int = 0,
    device: str | None = None,
    on_part: Callable[[float, str], None] = lambda part, text: None,
) -> dict[str, Any]:
    """Make static vectors, and write them as `StaticEmbedder.save` does.

    The teacher's vectors are kept next to ``out`` until it is written: the same call resumes.

    Args:
        teacher: a model of sentence-transformers.
        tokenizer: a directory with tokenizer.json.
        data: files of texts, see `data.samples.sample_texts`.
        out: directory of the result.
        columns: columns of the texts.
        texts: number of texts, at most.
        epochs: passes over them.
        lr: learning rate of Adam, which decays linearly to 0.
        dimensions: of the vectors; None for those of the teacher, which is the most.
        seed: decides which texts, and their order.
        device: of the teacher; a torch device, None is the CPU.
        on_part: called with the fraction of the work that is new since the last call.

    Returns:
        The content of distill.json: "cosine", the mean cosine with the teacher on held-out texts,
        before and after training; settings, and SHA-256 of teacher, tokenizer and data.

    Raises:
        InputError: teacher, tokenizer, data or directory cannot be used.
        OutputExistsError: the directory exists and was not written by motherbird.
    """
    check_replaceable(out, "model")
    source = hub.find(tokenizer)
    tokens = read_tokenizer(source)
    model = Teacher(teacher, device)
    if dimensions is not None and not 1 <= dimensions <= model.size:
        what = f"dimensions = {dimensions} is not within 1..{model.size}"
        raise InputError(what, how="the teacher's vectors have no more")
    chosen = sample_texts(data, texts, seed, columns)
    key = {
        "teacher": model.digest(), "tokenizer": sha256(source / TOKENIZER),
        "data": [sha256(Path(path)) for path in data], "columns": [*columns], "texts": texts,
        "seed": seed,
    }  # fmt: skip
    with resumable_directory(out, "model", key) as work:
        words = [tokens.decode([number], skip_special_tokens=False) or " " for number in
                 range(tokens.get_vocab_size())]  # fmt: skip
        total = len(words) / 8 + len(chosen)  # a token takes an eighth of the time of a text
        of_words = model.vectors(words, work / "tokens",
                                 lambda n: on_part(0.8 * n / 8 / total, "tokens"))  # fmt: skip
        wanted = model.vectors(chosen, work / "texts",
                               lambda n: on_part(0.8 * n / total, "texts"))  # fmt: skip
        ids = [e.ids for e in tokens.encode_batch_fast(chosen, add_special_tokens=False)]
        known = [n for n, own in enumerate(ids) if own]
        table, cosine = _train(
            [np.array(ids[n]) for n in known], wanted[known], of_words, epochs, lr, seed,
            lambda part: on_part(0.2 * part, "training"),
        )  # fmt: skip
        info = {
            "cosine": cosine, "documents": len(known), "epochs": epochs, "lr": lr,
            "dimensions": dimensions or table.shape[1], **key, "machine": machine.describe(),
        }  # fmt: skip
        embedder = StaticEmbedder(tokens, np.ascontiguousarray(table[:, :dimensions]))
        text = json.dumps(info, indent=1) + "\n"
        embedder.save(out, lambda fresh: (fresh / INFO).write_text(text, encoding="utf-8"))
    return read_json_object(out / INFO)


def _train(
    ids: Sequence[np.ndarray],
    wanted: Float32[np.ndarray, "n D"],
    of_tokens: Float32[np.ndarray, "V D"],
    epochs: int,
    lr: float,
    seed: int,
    on_part: Callable[[float], None],
) -> tuple[Float32[np.ndarray, "V D"], dict[str, float]]:
    """Return the table, and the mean cosine of held-out texts before and after training."""
    counts = np.bincount(np.concatenate(ids), minlength=len(of_tokens))
    weights = FREQUENCY / (FREQUENCY + counts / counts.sum())
    start = (of_tokens - of_tokens.mean(axis=0)) * weights[:, None]
    table = nn.Parameter(torch.from_numpy(start.astype(np.float32)))
    layer = nn.Parameter(torch.eye(wanted.shape[1]))
    targets = normalize(torch.from_numpy(wanted))
    numbers = np.arange(len(ids))
    held_out = numbers[numbers % HELD_OUT == 0]
    trained = np.setdiff1d(numbers, held_out)

    def vectors(chosen: np.ndarray) -> Float[Tensor, "some D"]:
        own = [ids[number] for number in chosen]
        offsets = np.cumsum([0, *(len(document) for document in own[:-1])])
        flat = torch.from_numpy(np.concatenate(own))
        means = embedding_bag(flat, table, torch.from_numpy(offsets), mode="mean")
        return normalize(means @ layer)

    def on_held_out() -> float:
        with torch.no_grad():
            return float((vectors(held_out) * targets[held_out]).sum(dim=1).mean())

    cosine = {"before": on_held_out()}
    optimizer = torch.optim.Adam([table, layer], lr, fused=True)
    draw = np.random.default_rng(seed)
    steps, step = epochs * -(-len(trained) // BATCH), 0
    for _ in range(epochs):
        order = draw.permutation(trained)
        for first in range(0, len(order), BATCH):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            chosen = order[first : first + BATCH]
            own, other = vectors(chosen), targets[chosen]
            loss = 1 - (own * other).sum(dim=1).mean()
            loss = loss + COSINES * mse_loss(own @ own.T, other @ other.T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            on_part(1 / steps)
    cosine["after"] = on_held_out()
    found = (table @ layer).detach().numpy()
    return _rotated(found, counts), cosine


def _rotated(table: Float32[np.ndarray, "V D"], counts: np.ndarray) -> Float32[np.ndarray, "V D"]:
    """Put the dimensions in the order of how much they vary over the tokens of the texts."""
    weighted = table * np.sqrt(counts / counts.sum())[:, None]
    _, axes = np.linalg.eigh(weighted.T @ weighted)
    return np.ascontiguousarray(table @ axes[:, ::-1]).astype(np.float32)
