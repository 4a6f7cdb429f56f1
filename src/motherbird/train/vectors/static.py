"""Static vectors learned from a teacher: a vector for each token, and a text is their mean.

The table begins as the teacher's vectors of the tokens, each weighted by 1e-4 / (1e-4 + its
frequency) (Arora et al. 2017, "A simple but tough-to-beat baseline"), and a linear layer begins as
the identity. Both are trained so that the vectors of texts have the direction of the teacher's, and
the pairs of texts of a batch the teacher's cosines. The layer is multiplied into the table. A
rotation puts the dimensions in the order of how much they vary, so that the first ones can be used
alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, mse_loss, normalize

from ... import machine
from ...arrays import Float, Float32
from ...core import hub
from ...data.samples import sample_texts
from ...errors import InputError
from ...files import check_replaceable, resumable_directory, sha256
from ...models.static_embedder import TOKENIZER, StaticEmbedder, read_tokenizer
from .teacher import Teacher

INFO = "distill.json"
FREQUENCY = 1e-4  # at which a token has half of its weight
HELD_OUT = 50  # every so many texts are not trained on
BATCH = 256  # texts of a step
TEACHER = 0.8  # fraction of the time that the teacher takes, for the progress bar
COSINES = 100  # weight of the squared error of the cosines of pairs


@dataclass(frozen=True)
class StaticTraining:
    """Settings of `distill_static`."""

    columns: tuple[str, ...] = ()  # of the texts; see `data.samples.sample_texts`
    texts: int = 80_000  # at most
    epochs: int = 4  # passes over the texts
    lr: float = 5e-4  # learning rate of Adam at the beginning; it decays linearly to 0
    dimensions: int | None = None  # of the vectors; None: those of the teacher, which is the most
    seed: int = 0  # decides which texts, and their order


def distill_static(
    teacher: str,
    tokenizer: str,
    data: Sequence[str | Path],
    out: Path,
    settings: StaticTraining = StaticTraining(),
    *,
    vectors: Path | None = None,
    device: str | None = None,
    on_part: Callable[[float, str], None] = lambda part, text: None,
) -> dict[str, Any]:
    """Make static vectors, and write them as `StaticEmbedder.save` does.

    The teacher's vectors are kept until ``out`` is written: the same call resumes.

    Args:
        teacher: a model of sentence-transformers.
        tokenizer: a directory with tokenizer.json.
        data: files of texts.
        out: directory of the result.
        settings: settings.
        vectors: directory in which the teacher's vectors are kept for other runs; by default they
            lie next to ``out``.
        device: of the teacher; a torch device, None is the CPU.
        on_part: called with the fraction of the work that is new since the last call, and its name.

    Returns:
        The content of distill.json: "cosine", the mean cosine with the teacher on held-out texts,
        before and after training; settings, and SHA-256 of teacher, tokenizer and texts.

    Raises:
        InputError: teacher, tokenizer, data or directory cannot be used.
        OutputExistsError: the directory exists and was not written by motherbird.
    """
    check_replaceable(out, "model")
    source = hub.find(tokenizer)
    tokens, model = read_tokenizer(source), Teacher(teacher, device)
    if settings.dimensions is not None and not 1 <= settings.dimensions <= model.size:
        what = f"dimensions = {settings.dimensions} is not within 1..{model.size}"
        raise InputError(what, how="the teacher's vectors have no more")
    chosen = sample_texts(data, settings.texts, settings.seed, settings.columns)
    digest = hashlib.sha256("\0".join(chosen).encode()).hexdigest()
    key = {"teacher": model.digest, "tokenizer": sha256(source / TOKENIZER), "sample": digest}
    with resumable_directory(out, "model", key) as work:
        of_tokens, of_texts = _vectors(model, tokens, chosen, vectors or work, on_part)
        ids = [e.ids for e in tokens.encode_batch_fast(chosen, add_special_tokens=False)]
        known = [n for n, own in enumerate(ids) if own]
        table, cosine = _train([np.array(ids[n]) for n in known], of_texts[known], of_tokens,
                               settings, on_part)  # fmt: skip
        # float16 changes no ranking (docs/retrieval.md), and both libraries read it.
        table = np.ascontiguousarray(table[:, : settings.dimensions].astype(np.float16))
        info = {"cosine": cosine, "documents": len(known), **asdict(settings),
                "dimensions": table.shape[1], **key, "machine": machine.describe()}  # fmt: skip
        _write(StaticEmbedder(tokens, table), teacher, info, out)
    return info


def _write(embedder: StaticEmbedder, teacher: str, info: dict[str, Any], out: Path) -> None:
    """Write static vectors with distill.json and a model card."""
    card = embedder.card(
        f"\nLearned from the vectors of {Path(teacher).name} for {info['documents']:,} texts, by "
        "`motherbird distill static`. The mean cosine with them on held-out texts is "
        f"{info['cosine']['after']:.3f}. {INFO} has the settings, and SHA-256 of teacher, "
        "tokenizer and texts.\n"
    )

    def write_more(fresh: Path) -> None:
        (fresh / INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")

    embedder.save(out, write_more)


def _vectors(
    model: Teacher,
    tokens: Tokenizer,
    texts: Sequence[str],
    folder: Path,
    on_part: Callable[[float, str], None],
) -> tuple[Float32[np.ndarray, "V D"], Float32[np.ndarray, "n D"]]:
    """Return the teacher's vectors of all tokens and of texts."""
    words = [
        tokens.decode([number], skip_special_tokens=False) or " "
        for number in range(tokens.get_vocab_size())
    ]
    total = len(words) / 8 + len(texts)  # a token takes an eighth of the time of a text
    return (
        model.vectors(words, folder,
                      lambda count: on_part(TEACHER * count / 8 / total, "tokens")),
        model.vectors(texts, folder,
                      lambda count: on_part(TEACHER * count / total, "texts")),
    )  # fmt: skip


def _train(
    ids: Sequence[np.ndarray],
    wanted: Float32[np.ndarray, "n D"],
    of_tokens: Float32[np.ndarray, "V D"],
    settings: StaticTraining,
    on_part: Callable[[float, str], None],
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
    optimizer = torch.optim.Adam([table, layer], settings.lr, fused=True)
    draw = np.random.default_rng(settings.seed)
    steps, step = settings.epochs * -(-len(trained) // BATCH), 0
    for _ in range(settings.epochs):
        order = draw.permutation(trained)
        for first in range(0, len(order), BATCH):
            optimizer.param_groups[0]["lr"] = settings.lr * (1 - step / steps)
            chosen = order[first : first + BATCH]
            own, other = vectors(chosen), targets[chosen]
            loss = 1 - (own * other).sum(dim=1).mean()
            loss = loss + COSINES * mse_loss(own @ own.T, other @ other.T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            on_part((1 - TEACHER) / steps, "training")
    cosine["after"] = on_held_out()
    found = (table @ layer).detach().numpy()
    return _rotated(found, counts), cosine


def _rotated(table: Float32[np.ndarray, "V D"], counts: np.ndarray) -> Float32[np.ndarray, "V D"]:
    """Put the dimensions in the order of how much they vary over the tokens of the texts."""
    weighted = table * np.sqrt(counts / counts.sum())[:, None]
    _, axes = np.linalg.eigh(weighted.T @ weighted)
    return np.ascontiguousarray(table @ axes[:, ::-1]).astype(np.float32)
