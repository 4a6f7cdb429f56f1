"""``motherbird demo``: from text to a tokenizer, a tiny encoder, filled masks and a search."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import click

from ..core.hub import NANO
from . import options
from .output import is_terminal, print_json, progress

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.config import EncoderConfig
    from ..core.tokenizer import Tokenizer
    from ..data.passages import Passage
    from ..data.readers import Document
    from ..models.embedder import Embedder
    from ..nn.heads import MaskedLM
    from ..train.loop import Step

VOCABULARIES = (4096, 2048, 1024, 512)  # the largest that the text fills
LONGEST = 256  # tokens
HELD_OUT = 0.04  # share of the documents that is never trained on
TRAIN_SHARE, PAIRS_SHARE = 0.6, 0.15  # of the time; reading, tokenizing, indexing take the rest
PAIRS, PAIR_TOKENS = 48, 96  # of a contrastive step
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


@click.command(name="demo")
@click.option("--text", metavar="PATH", help="Your own file or folder instead of Python's library.")
@click.option("--out", default="motherbird-demo", metavar="DIR", show_default=True,
              help="Where the model goes.")  # fmt: skip
@click.option("--minutes", default=3.0, metavar="M", show_default=True,
              type=click.FloatRange(0.1, 24 * 60), help="About how long it all takes.")  # fmt: skip
@click.option("--question", "questions", multiple=True, metavar="TEXT",
              help="Search for this; may be given several times.")  # fmt: skip
@options.seed
@options.threads
@options.as_json
def command(
    text: str | None,
    out: str,
    minutes: float,
    questions: tuple[str, ...],
    seed: int,
    threads: int | None,
    json_: bool,
) -> None:
    """Train a tiny encoder on text of this machine, fill masks, and search.

    Without --text it reads the sources and documentation of the Python that it runs on; no network
    is used. Of --out, a folder of its own is replaced; any other is refused.

    With --json: {"out", "seconds", "documents", "megabytes", "vocabulary", "parameters", "steps",
    "tokens_per_second", "held_out_loss", "unigram_entropy", "gain", "fills", "nano_fills",
    "searches"}; losses in nats a token, both fills [{"text", "candidates"}], searches
    [{"question", "hits": [{"source", "title", "score"}]}].
    """
    from ..files import check_replaceable

    start = time.perf_counter()
    out_path = options.output(out, [text] if text is not None else [])
    check_replaceable(out_path, "demo")
    _check(minutes, questions)
    options.set_threads(threads)

    def say(line: str) -> None:
        click.echo(line, err=json_)

    import torch

    from ..files import new_directory
    from ..nn import checkpoint
    from ..nn.heads import MaskedLM
    from ..train.loop import evaluate, unigram_entropy

    torch.manual_seed(seed)
    documents = _gather(text)
    megabytes = sum(len(d.text.encode()) for d in documents) / 1e6
    what = f"from {text}" if text else "of this Python's standard library"
    say(f"1/5 reading    {len(documents)} documents {what}, {megabytes:.1f} MB")

    texts = _pieces([d.text for d in documents])
    tokenizer = _tokenizer(texts)
    encoded = tokenizer.encode_batch(texts)
    per_token = megabytes * 1e6 / sum(map(len, encoded))
    say(f"2/5 tokenizer  {tokenizer.vocab_size:,} entries, {per_token:.2f} bytes a token")

    held_out, train_on = _split(encoded, seed)
    config = _geometry(tokenizer)
    model = MaskedLM(config)
    model.model.tokenizer = tokenizer
    parameters = sum(p.numel() for p in model.parameters())
    say(
        f"3/5 training   {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{parameters / 1e6:.1f}M parameters, {minutes * 60 * TRAIN_SHARE:.0f} seconds"
    )
    last = _train(model, train_on, tokenizer, seed, minutes * 60 * TRAIN_SHARE, say)
    loss = evaluate(model, held_out, tokenizer, LONGEST)
    entropy = unigram_entropy(held_out, tokenizer.special_ids)
    gain = entropy - loss
    say(f"    held-out loss {loss:.2f} nats a masked token; {entropy:.2f} from frequency alone")
    read = f"{gain:.2f} nats are read from the context"
    say(
        "    "
        + (read if gain > 0 else "nothing is read from the context yet: give it more --minutes")
    )

    say("4/5 filling masks")
    fills = _fill(model, say)
    say(f"    and {NANO}, which comes with the package and has read more:")
    nano_fills = _fill(MaskedLM.load(NANO, dtype="auto"), say)

    say(f"5/5 searching  (a second encoder, {minutes * 60 * PAIRS_SHARE:.0f} seconds on questions)")
    passages = _passages(documents)
    embedder = _train_search(config, tokenizer, passages, seed, minutes * 60 * PAIRS_SHARE)
    searches = _search(embedder, passages, questions or _questions(text, passages))
    for search in searches:
        say(f"    {search['question'][:70]}")
        for hit in search["hits"]:
            say(f"      {hit['score']:.2f}  {hit['title']}")

    with new_directory(out_path, "demo") as fresh:
        checkpoint.write(model, fresh)
        (fresh / "search").mkdir()
        checkpoint.write(embedder.encoder, fresh / "search")
        embedder.write_modules(fresh, at="search")
    seconds = time.perf_counter() - start
    say(f"\nSaved in {out} after {seconds:.0f} seconds. Now try:")
    say(f'  motherbird fill-mask "import [MASK]" --model {out}')
    say(f'  motherbird fill-mask "import [MASK]"    # with {NANO}')
    say(f"  echo 'compress a file' | motherbird embed - --model {out} --out vectors.npy")
    say(f"  motherbird info {out}")
    say("  motherbird demo --text a/folder/of/yours --out other-demo")
    if json_:
        print_json(
            {
                "out": out,
                "seconds": round(seconds, 1),
                "documents": len(documents),
                "megabytes": round(megabytes, 2),
                "vocabulary": tokenizer.vocab_size,
                "parameters": parameters,
                "steps": last.number,
                "tokens_per_second": last.tokens_per_second,
                "held_out_loss": loss,
                "unigram_entropy": entropy,
                "gain": gain,
                "fills": fills,
                "nano_fills": nano_fills,
                "searches": searches,
            }
        )


def _check(minutes: float, questions: tuple[str, ...]) -> None:
    """Refuse before the work what would fail after it."""
    from ..errors import InputError

    if not math.isfinite(minutes):
        raise InputError(f"--minutes {minutes} is no length of time")
    for question in questions:
        options.check_text(question)
        if not question.strip():
            raise InputError("an empty --question asks nothing", how="leave it out")


def _gather(text: str | None) -> "list[Document]":
    """The documents, at least 50 kB of them."""
    from ..data import readers, stdlib
    from ..errors import InputError

    documents = list(stdlib.read() if text is None else readers.read(text))
    if sum(len(d.text) for d in documents) < 50_000:
        have = sum(len(d.text) for d in documents) / 1000
        raise InputError(f"{have:.0f} kB of text is too little to learn from", str(text), "give 50")
    return documents


def _pieces(texts: list[str]) -> list[str]:
    """A few large texts are cut, so that some can be held out."""
    if len(texts) >= 50:
        return texts
    return [text[i : i + 4000] for text in texts for i in range(0, len(text), 4000)]


def _tokenizer(texts: list[str]) -> "Tokenizer":
    """The largest vocabulary that the text fills."""
    from ..core import tokenizer
    from ..errors import InputError

    *larger, smallest = VOCABULARIES
    for size in larger:
        try:
            return tokenizer.train(texts, size)
        except InputError:  # too little text for this many
            continue
    return tokenizer.train(texts, smallest)


def _split(encoded: list[list[int]], seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """A few documents, chosen by the seed, are held out; the others are trained on."""
    import numpy as np

    order = np.random.default_rng([seed, 3]).permutation(len(encoded)).tolist()
    count = max(1, round(HELD_OUT * len(encoded)))
    return [encoded[i] for i in order[:count]], [encoded[i] for i in order[count:]]


def _geometry(tokenizer: "Tokenizer") -> "EncoderConfig":
    """3 layers of 192.

    Initial weights of 0.02 are for wide models: at this width the matrices start at
    1 / sqrt(width), without which the loss stays on its first plateau for minutes.
    """
    from ..core.config import EncoderConfig

    width = 192
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=8192,
        initializer_range=width**-0.5,
        cls_token_id=tokenizer.id_of("cls"),
        bos_token_id=tokenizer.id_of("cls"),
        sep_token_id=tokenizer.id_of("sep"),
        eos_token_id=tokenizer.id_of("sep"),
        pad_token_id=tokenizer.id_of("pad"),
    )


def _train(
    model: "MaskedLM",
    encoded: list[list[int]],
    tokenizer: "Tokenizer",
    seed: int,
    seconds: float,
    say: Callable[[str], None],
) -> "Step":
    """Masked-LM training, with a bar on a terminal and a line every tenth elsewhere."""
    from ..train.loop import Step, pretrain

    recent: list[float] = []
    tenths = 0

    with progress("    training", total=1.0) as advance:
        done = 0.0

        def on_step(step: Step) -> None:
            nonlocal tenths, done
            recent.append(step.loss)
            line = f"loss {mean(recent[-20:]):.2f}  {step.tokens_per_second:,.0f} tokens/s"
            advance(step.share - done, line)
            done = step.share
            if not is_terminal() and step.share * 10 >= tenths + 1:
                tenths = int(step.share * 10)
                say(f"    {tenths * 10:3d}%  {line}  {step.seconds_left:.0f} s left")

        return pretrain(model, encoded, tokenizer, seed=seed, seconds=seconds, on_step=on_step)


def _fill(model: "MaskedLM", say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What a model puts into some lines of code and a sentence."""
    fills = []
    for sentence in SENTENCES:
        [candidates] = model.fill(sentence, 3)
        best = ", ".join(f"{c.text} {c.probability:.0%}" for c in candidates)
        say(f"    {sentence:<44}{best}")
        fills.append({"text": sentence, "candidates": [asdict(c) for c in candidates]})
    return fills


def _passages(documents: "list[Document]") -> "list[Passage]":
    """What search can find: public names in code, paragraphs in prose."""
    from ..data.passages import passages

    return [passage for document in documents for passage in passages(document)]


def _train_search(
    config: "EncoderConfig",
    tokenizer: "Tokenizer",
    passages: "list[Passage]",
    seed: int,
    seconds: float,
) -> "Embedder":
    """A second encoder, of one layer, that brings questions and their answers together.

    It starts from fresh weights because masked-LM training of a minute leaves all mean vectors
    alike (cosines of 0.95); a contrast that starts there does not get anywhere: docs/log.md.
    """
    import numpy as np

    from ..models.embedder import Embedder
    from ..nn.encoder import Encoder
    from ..train.loop import train

    encoder = Encoder(replace(config, num_hidden_layers=1))
    encoder.tokenizer = tokenizer
    embedder = Embedder(encoder)
    order = np.random.default_rng([seed, 4]).permutation(len(passages))

    def loss_of(number: int) -> "tuple[Tensor, int]":
        chosen = [passages[order[(number * PAIRS + i) % len(order)]] for i in range(PAIRS)]
        generator = np.random.default_rng([seed, 5, number])
        questions = []
        for passage in chosen:  # a few words in a row, as people ask
            words = passage.question.split()
            length = int(generator.integers(3, 10))
            start = int(generator.integers(0, max(1, len(words) - length + 1)))
            questions.append(" ".join(words[start : start + length]))
        return embedder.loss(questions, [p.answer for p in chosen], max_length=PAIR_TOKENS)

    train(encoder, loss_of, lr=3e-3, seconds=seconds)
    return embedder


def _search(
    embedder: "Embedder", passages: "list[Passage]", questions: Sequence[str]
) -> list[dict[str, Any]]:
    """For each question the three sources with the nearest passage."""
    encoded = embedder.tokenizer.encode_batch([p.text for p in passages])
    vectors = embedder.embed_ids([embedder.tokenizer.truncate(d, PAIR_TOKENS) for d in encoded])
    asked = embedder.embed(questions, max_length=LONGEST, truncate=True)
    several = len({passage.source for passage in passages}) > 3  # else hits may share a source
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
    return results


def _questions(text: str | None, passages: "list[Passage]") -> Sequence[str]:
    """What to ask where the user asks nothing: of one's own text, words from its middle."""
    if text is None:
        return QUESTIONS
    return [passages[len(passages) * i // 4].question[:200] for i in (1, 2, 3)]
