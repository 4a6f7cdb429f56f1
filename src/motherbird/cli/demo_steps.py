"""The work of ``motherbird demo``: read, train a tokenizer and two encoders, fill masks, search."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from ..core import bpe
from ..core.config import EncoderConfig
from ..core.hub import NANO
from ..core.tokenizer import Tokenizer
from ..data import readers, stdlib
from ..data.loader import Cursor
from ..data.passages import Passage
from ..data.passages import passages as split
from ..data.readers import Document
from ..errors import InputError, human
from ..files import new_directory
from ..models.embedder import Embedder
from ..models.masked_lm import MaskedLM as FillMask
from ..nn import checkpoint
from ..nn.encoder import Encoder
from ..nn.heads import MaskedLM
from ..nn.vectors import VectorModel
from ..train import loop
from ..train.evaluation import evaluate, unigram_entropy
from ..train.in_memory import evaluation_batches, training_batches
from ..train.objectives.contrastive import ContrastiveObjective
from ..train.objectives.masked_lm import MaskedLMObjective
from ..train.objectives.texts import TextsBatch
from ..train.step import StepReport
from ..train.vectors.rows import TextRows
from .output import is_terminal, progress

Say = Callable[[str], None]
VOCABULARIES = (4096, 2048, 1024, 512)  # the largest for which there is enough text is used
LENGTH, ROWS = 256, 8  # tokens per row, and rows per step
HELD_OUT = 0.04  # fraction of the documents
TRAIN_SHARE, PAIRS_SHARE = 0.6, 0.15  # of the time; reading, tokenizing and indexing take the rest
PAIRS, PAIR_TOKENS = 48, 96  # pairs per micro-batch, and tokens of a text
MICRO_BATCHES = 4  # of a contrastive step at most, one per core
SENTENCES = (
    "for i in [MASK](len(items)):",
    "def __init__([MASK], name):",
    "if value is [MASK] None:",
    "Return the number of [MASK] in the list.",
)
QUESTIONS = (
    "compress data with gzip",
    "run another program and capture its output",
    "mean, median and standard deviation of numbers",
)


def run(
    text: str | None, out: Path, seconds: float, questions: Sequence[str], seed: int, say: Say
) -> dict[str, Any]:
    """Do everything, write the directory ``out``, and return the figures for --json."""
    torch.manual_seed(seed)
    documents = _read(text, say)
    model, figures = _pretrain(documents, seed, seconds * TRAIN_SHARE, say)
    say("4/5 filling masks")
    fills = _fill(FillMask(model), say)
    say(f"    and {NANO}, the model in this package, which was trained for longer:")
    nano_fills = _fill(FillMask.load(NANO, dtype="auto"), say)
    say(f"5/5 searching  (a second encoder, {seconds * PAIRS_SHARE:.0f} seconds on questions)")
    passages = [passage for document in documents for passage in split(document)]
    embedder = _train_search(model, passages, seed, seconds * PAIRS_SHARE)
    searches = _search(embedder, passages, questions or _questions(text, passages), say)
    with new_directory(out, "demo") as fresh:
        checkpoint.write(model, fresh)
        (fresh / "search").mkdir()
        checkpoint.write(embedder.encoder, fresh / "search")
        embedder.write_modules(fresh, at="search")
    return {**figures, "fills": fills, "nano_fills": nano_fills, "searches": searches}


def _read(text: str | None, say: Say) -> list[Document]:
    """Read the documents; InputError if they are less than 50 kB."""
    documents = list(stdlib.read() if text is None else readers.read(text))
    size = sum(len(d.text.encode()) for d in documents)
    if size < 50_000:
        what = f"there is too little text to train on ({size / 1000:.0f} kB)"
        raise InputError(what, str(text), "at least 50 kB are needed")
    source = f"from {text}" if text else "of this Python's standard library"
    say(f"1/5 reading    {len(documents)} documents {source}, {human(size, 'B')}")
    return documents


def _pretrain(
    documents: list[Document], seed: int, seconds: float, say: Say
) -> tuple[MaskedLM, dict[str, Any]]:
    """Train a tokenizer and a masked LM, and evaluate; return the model and figures for --json."""
    texts = [d.text for d in documents]
    if len(texts) < 50:  # split a few large texts, so that some pieces can be held out
        texts = [text[i : i + 4000] for text in texts for i in range(0, len(text), 4000)]
    tokenizer = _tokenizer(texts)
    encoded = tokenizer.encode_batch(texts)
    size = sum(len(text.encode()) for text in texts)
    per_token = size / sum(map(len, encoded))
    say(f"2/5 tokenizer  {tokenizer.vocab_size:,} entries, {per_token:.2f} bytes per token")
    held_out, train_on = _split(encoded, seed)
    config = _config(tokenizer)
    model = MaskedLM(config)
    model.model.tokenizer = tokenizer
    parameters = sum(p.numel() for p in model.parameters())
    say(
        f"3/5 training   {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{human(parameters)} parameters, {seconds:.0f} seconds"
    )
    start = time.perf_counter()
    last = _train(model, train_on, tokenizer, seed, seconds, say)
    speed = last.progress.tokens / (time.perf_counter() - start)
    loss = evaluate(model, evaluation_batches(held_out, tokenizer, LENGTH)).loss
    entropy = unigram_entropy(held_out, tokenizer.special_ids)
    gain = entropy - loss
    say(f"    held-out loss {loss:.2f} nats per masked token; {entropy:.2f} by token frequency")
    gained = f"the context gives {gain:.2f} nats"
    say("    " + (gained if gain > 0 else "no gain from the context yet: use more --minutes"))
    return model, {
        "documents": len(documents), "megabytes": round(size / 1e6, 6),
        "vocabulary": tokenizer.vocab_size, "parameters": parameters, "steps": last.number,
        "tokens_per_second": speed, "held_out_loss": loss, "unigram_entropy": entropy,
        "gain": gain,
    }  # fmt: skip


def _tokenizer(texts: list[str]) -> Tokenizer:
    """Train a tokenizer with the largest vocabulary for which there is enough text."""
    *larger, smallest = VOCABULARIES
    for size in larger:
        try:
            return bpe.train(texts, size)
        except InputError:  # too little text
            continue
    return bpe.train(texts, smallest)


def _split(encoded: list[list[int]], seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Split into held-out and training documents, by the seed."""
    order = np.random.default_rng([seed, 3]).permutation(len(encoded)).tolist()
    count = max(1, round(HELD_OUT * len(encoded)))
    return [encoded[i] for i in order[:count]], [encoded[i] for i in order[count:]]


def _config(tokenizer: Tokenizer) -> EncoderConfig:
    """Return 3 layers of width 192.

    The usual standard deviation of 0.02 for initial weights is for wide models. At this width it is
    1 / sqrt(width); with less the loss does not fall for minutes.
    """
    width = 192
    cls, sep, pad = map(tokenizer.id_of, ("cls", "sep", "pad"))
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=width, intermediate_size=288,
        num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=8192,
        initializer_range=width**-0.5, cls_token_id=cls, bos_token_id=cls, sep_token_id=sep,
        eos_token_id=sep, pad_token_id=pad,
    )  # fmt: skip


def _train(
    model: MaskedLM,
    encoded: list[list[int]],
    tokenizer: Tokenizer,
    seed: int,
    seconds: float,
    say: Say,
) -> StepReport:
    """Train the masked LM, with a progress bar on a terminal, or a line for every tenth."""
    recent: list[float] = []
    start = time.perf_counter()
    tenths = 0
    batches = training_batches(
        encoded, tokenizer, length=LENGTH, rows=ROWS, micro_batches=torch.get_num_threads(),
        seed=seed,
    )  # fmt: skip
    with progress("    training", total=1.0) as update:

        def on_step(report: StepReport, done: float) -> None:
            nonlocal tenths
            recent.append(report.loss)
            elapsed = time.perf_counter() - start
            speed = report.progress.tokens / elapsed
            line = f"loss {mean(recent[-20:]):.2f}  {speed:,.0f} tokens/s"
            update(completed=done, text=line)
            if not is_terminal() and done * 10 >= tenths + 1:
                tenths = int(done * 10)
                say(f"    {tenths * 10:3d}%  {line}  {elapsed / done - elapsed:.0f} s left")

        return loop.train(
            MaskedLMObjective(model), batches, lr=2e-3, seconds=seconds, seed=seed, on_step=on_step
        )


def _fill(model: FillMask, say: Say) -> list[dict[str, Any]]:
    """Return the three best words for each mask of `SENTENCES`."""
    fills = []
    for sentence in SENTENCES:
        [candidates] = model.fill(sentence, 3)
        best = ", ".join(f"{c.text} {c.probability:.0%}" for c in candidates)
        say(f"    {sentence:<44}{best}")
        fills.append({"text": sentence, "candidates": [asdict(c) for c in candidates]})
    return fills


def _train_search(model: MaskedLM, passages: list[Passage], seed: int, seconds: float) -> Embedder:
    """Train a second encoder, of one layer, on pairs of questions and answers.

    It starts from random weights. A minute of masked-LM training makes all mean vectors similar
    (cosines of 0.95), and contrastive training does not recover from that: docs/log.md.
    """
    encoder = Encoder(replace(model.model.config, num_hidden_layers=1))
    encoder.tokenizer = model.model.tokenizer
    embedder = Embedder(encoder)
    batches = _pairs(embedder.tokenizer, passages, seed)
    objective = ContrastiveObjective(VectorModel(encoder, "mean"), symmetric=True)
    loop.train(objective, batches, lr=3e-3, seconds=seconds, seed=seed)
    return embedder


def _pairs(
    tokenizer: Tokenizer, passages: list[Passage], seed: int
) -> Iterator[tuple[list[TextsBatch], Cursor]]:
    """Yield the micro-batches of every step: a few words of a question, and its answer."""
    order = np.random.default_rng([seed, 4]).permutation(len(passages))
    micro_batches = min(MICRO_BATCHES, torch.get_num_threads())
    number = 0
    while True:
        step = []
        for _ in range(micro_batches):
            chosen = [passages[order[(number * PAIRS + i) % len(order)]] for i in range(PAIRS)]
            generator = np.random.default_rng([seed, 5, number])
            questions = []
            for passage in chosen:
                words = passage.question.split()
                length = int(generator.integers(3, 10))
                start = int(generator.integers(0, max(1, len(words) - length + 1)))
                questions.append(" ".join(words[start : start + length]))
            texts = [text for pair in zip(questions, chosen, strict=True)
                     for text in (pair[0], pair[1].answer)]  # fmt: skip
            ids = [tokenizer.truncate(each, PAIR_TOKENS) for each in tokenizer.encode_batch(texts)]
            rows = TextRows([np.array(each, np.int32) for each in ids], [2] * PAIRS)
            step.append(rows.batch(range(PAIRS)))
            number += 1
        yield step, Cursor(seed, consumed=number * PAIRS)


def _search(
    embedder: Embedder, passages: list[Passage], questions: Sequence[str], say: Say
) -> list[dict[str, Any]]:
    """Return for each question the three sources with the most similar passages."""
    encoded = embedder.tokenizer.encode_batch([p.text for p in passages])
    vectors = embedder.embed_ids([embedder.tokenizer.truncate(d, PAIR_TOKENS) for d in encoded])
    asked = embedder.embed(questions, max_length=LENGTH, truncate=True)
    several = len({passage.source for passage in passages}) > 3  # otherwise hits may share a source
    results = []
    for question, scores in zip(questions, asked @ vectors.T, strict=True):
        hits: dict[str, dict[str, Any]] = {}
        for i in (-scores).argsort():
            passage = passages[i]
            title = passage.title or " ".join(passage.text.split())[:70]
            hit = {"source": passage.source, "title": title, "score": float(scores[i])}
            hits.setdefault(passage.source if several else title, hit)
            if len(hits) == 3:
                break
        results.append({"question": question, "hits": list(hits.values())})
        say(f"    {question[:70]}")
        for hit in hits.values():
            say(f"      {hit['score']:.2f}  {hit['title']}")
    return results


def _questions(text: str | None, passages: list[Passage]) -> Sequence[str]:
    """Return the default questions; for the user's own text, words from it."""
    if text is None:
        return QUESTIONS
    return [passages[len(passages) * i // 4].question[:200] for i in (1, 2, 3)]
