"""Train a tokenizer: a byte-level BPE for text and code."""

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import InputError
from .arguments import check_type
from .tokenizer import SPECIAL, Tokenizer

UNUSED = 83  # unused entries, as in ModernBERT
LONGEST_WORD = 768  # bytes (256 Chinese characters); longer words are cut for training
SMALLEST = -(-(256 + 1 + len(SPECIAL) + UNUSED) // 64) * 64  # vocabulary that can be trained


def check_size(size: int) -> None:
    """Check the size of a vocabulary for `train`.

    Raises:
        InputError: it is not a multiple of 64, or smaller than the bytes and special tokens.
    """
    check_type(size, "the vocabulary size", int)
    if size % 64 or size < SMALLEST:
        how = f"use a multiple of 64, at least {SMALLEST}"
        raise InputError(f"invalid vocabulary size {size}", how=how)


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-level BPE for text and code, with five special tokens and 83 unused entries.

    Normalization (NFC), pre-tokenization (GPT-2) and template (BERT) are those of ModernBERT, but
    runs of spaces are not split off beforehand: a line break is merged with the indentation that
    follows it, so that a line of code has one token less.

    Words (runs of letters, digits, white space or other characters) of more than 768 bytes are cut
    for training, because the time to merge their pairs grows with the square of their length.

    Args:
        texts: documents; read once.
        size: number of entries, a multiple of 64 (for efficient matrix products).

    Raises:
        InputError: the size is invalid, or there is not enough text for it.
    """
    check_size(size)
    fixed = len(SPECIAL) + UNUSED
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = tokenizers.Regex(f".{{1,{LONGEST_WORD}}}")  # after ByteLevel, of bytes without newlines
    cut = pre_tokenizers.Split(parts, "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, cut])
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - fixed,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = words
    learned = backend.get_vocab_size()
    if learned < size - fixed:
        reachable = (learned + fixed) // 64 * 64
        smaller = f", or a size of at most {reachable}" if reachable >= SMALLEST else ""
        what = f"the text is too small for a vocabulary of {size}"
        raise InputError(what, how=f"use more text{smaller}")
    return complete(backend)


def complete(backend: tokenizers.Tokenizer) -> Tokenizer:
    """Append the five special tokens and the unused entries, and set BERT's template.

    Applied to OLMo's tokenizer, this gives ModernBERT's tokenizer.
    """
    # lstrip: the mask absorbs the space before it, so that "a [MASK]" has no single space token.
    backend.add_special_tokens(
        [AddedToken(t, special=True, lstrip=t == SPECIAL["mask"]) for t in SPECIAL.values()]
    )
    backend.add_tokens([AddedToken(f"[unused{n}]", normalized=True) for n in range(UNUSED)])
    cls, sep = SPECIAL["cls"], SPECIAL["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(token, backend.token_to_id(token)) for token in SPECIAL.values()],
    )
    return Tokenizer(backend, dict(SPECIAL), split_special_tokens=True)
