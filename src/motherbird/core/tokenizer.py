"""Text to token ids and back: load any tokenizer.json, save for AutoTokenizer.

The text of a special token, such as ``"[SEP]"`` in a README, is either that token, as in
transformers, or split like other text (``split_special_tokens``). Inference does the former by
default, so that its results equal those of transformers; training data is always split.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from ..errors import InputError
from ..files import check_files, new_directory, read_json_object
from . import hub
from .arguments import (
    check_document,
    check_flag,
    check_integer,
    check_pairs,
    check_path,
    check_text,
    check_texts,
    check_type,
)  # fmt: skip
from .words import Encoding, first_tokens, join_words

ROLES = ("unk", "cls", "sep", "pad", "mask")
SPECIAL = dict(zip(ROLES, ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), strict=True))
PLACES = "pass a tokenizer.json, its directory, or owner/name on the Hub"
_UNUSED = re.compile(r"\[unused\d+\]")
CHUNK = 64  # texts that are encoded at once: an encoding is many times larger than its ids
# The names of the special tokens in other model families.
_ALIASES = {
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<bos>"),
    "sep": ("[SEP]", "</s>", "<eos>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
}
# Unicode white space; Python's \s also contains the separators 1C to 1F.
_TRAILING_SPACE = re.compile(r"[^\S\x1c-\x1f]+\Z")


class Tokenizer:
    """A `tokenizers.Tokenizer` with the roles of its special tokens.

    Args:
        backend: the tokenizer; its padding and truncation are switched off.
        special: the special tokens by role ("cls", "sep", "pad", "mask", "unk").
        clean_up: the ``clean_up_tokenization_spaces`` of its files.
        split_special_tokens: split the text of special tokens like other text, so that no text can
            contain a special token; as in transformers, the default is False. `encode_masked`
            recognizes masks in both cases.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: dict[str, str],
        clean_up: bool = False,
        split_special_tokens: bool = False,
    ) -> None:
        self.backend = check_type(
            backend, "backend", tokenizers.Tokenizer, "see motherbird.tokenizer"
        )
        self.special = special
        self.clean_up = check_flag(clean_up, "clean_up")
        self.split_special_tokens = check_flag(split_special_tokens, "split_special_tokens")
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = self.split_special_tokens  # not stored in tokenizer.json

    def __reduce__(self) -> tuple[Any, ...]:
        """Support copies and pickles: the library does not keep ``encode_special_tokens``."""
        return type(self), (self.backend, self.special, self.clean_up, self.split_special_tokens)

    @property
    def vocab_size(self) -> int:
        """The highest id plus one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def special_ids(self) -> list[int]:
        """The ids of all special tokens, with or without a role, in ascending order."""
        added = self.backend.get_added_tokens_decoder()
        ids = {i for i, token in added.items() if token.special}
        return sorted(ids | {self.id_of(role) for role in self.special})

    def id_of(self, role: str) -> int:
        """Return the id of the special token with a role ("cls", "sep", "pad", "mask", "unk").

        Raises:
            InputError: the tokenizer has none, or there is no such role.
        """
        if role not in ROLES:
            raise InputError(f"there is no role {role!r}", how=f"use {', '.join(ROLES)}")
        token = self.backend.token_to_id(self.special[role]) if role in self.special else None
        if token is None:
            raise InputError(f"the tokenizer has no {role} token", how="use another tokenizer")
        return token

    @property
    def mask_id(self) -> int:
        """The id of the mask token."""
        return self.id_of("mask")

    def with_tokens(self, texts: Sequence[str], size: int) -> "Tokenizer":
        """Return a tokenizer that has texts as tokens of their own.

        They get the ids of entries that are not used ([unused0] ...), which they replace, and then
        ids above the last one. A text that is a token already keeps its id.

        Args:
            texts: such as "[Q] ".
            size: the number of ids that the model has.

        Raises:
            InputError: there are not enough free ids.
        """
        named = [check_text(text, "a token", allow_empty=True) for text in texts]
        missing = [t for t in dict.fromkeys(named) if self.backend.token_to_id(t) is None]
        raw = json.loads(self.backend.to_str())
        vocabulary = raw["model"].get("vocab", {})
        free = [
            entry
            for entry in raw["added_tokens"]
            if _UNUSED.fullmatch(entry["content"]) and entry["content"] not in vocabulary
        ]
        for text, entry in zip(missing, free, strict=False):
            entry |= {"content": text, "normalized": False}
        backend = tokenizers.Tokenizer.from_str(json.dumps(raw))
        backend.add_tokens([AddedToken(text, normalized=False) for text in missing[len(free) :]])
        found = Tokenizer(backend, self.special, self.clean_up, self.split_special_tokens)
        if found.vocab_size > max(size, self.vocab_size):
            what = f"the vocabulary of {size:,} has no free id for {missing[-1]!r}"
            raise InputError(what, how="use a model with more entries, or a token that it has")
        return found

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with the special tokens of the tokenizer's template."""
        return self.backend.encode(check_text(text, allow_empty=True)).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts, computed on all cores."""
        chunks = _chunks(check_texts(texts, allow_empty=True), CHUNK)
        return [e.ids for chunk in chunks for e in self.backend.encode_batch_fast(chunk)]

    def encode_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the ids of texts with the character offsets of each token."""
        chunks = _chunks(check_texts(texts, allow_empty=True), CHUNK)
        encodings = (e for chunk in chunks for e in self.backend.encode_batch(chunk))
        return [Encoding(e.ids, e.offsets) for e in encodings]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the ids of words as they are in running text, with spaces between them.

        Returns:
            The ids, which are those of ``encode(" ".join(words))``, and the index of the first
            token of each word; -1 for a word without a token of its own (see `first_tokens`).

        Raises:
            InputError: the words are not a list of texts, or one is empty.
        """
        text, offsets = join_words(words)
        [encoding] = self.encode_offsets([text])
        return encoding.ids, first_tokens(offsets, encoding.offsets)

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], max_length: int
    ) -> tuple[list[list[int]], int]:
        """Return the ids of pairs of texts, truncated to a length.

        The longer text of a pair is truncated first; texts of equal length are truncated alike
        ("longest_first" in transformers).

        Args:
            pairs: the texts.
            max_length: largest number of tokens of a pair, special tokens included.

        Returns:
            The ids of each pair, in the tokenizer's template for pairs, and the number of pairs
            that were truncated.

        Raises:
            InputError: the special tokens alone are longer, or an argument is invalid.
        """
        max_length = check_integer(max_length, "max_length", 1)
        room = max_length - self.backend.num_special_tokens_to_add(is_pair=True)
        if room < 2:
            how = f"use {max_length - room + 2} or more"
            raise InputError(f"no pair of texts fits into {max_length} tokens", how=how)
        ids: list[list[int]] = []
        truncated = 0
        for texts in _chunks(check_pairs(pairs), 2 * CHUNK):
            encodings = self.backend.encode_batch(texts, add_special_tokens=False)
            for first, second in zip(encodings[::2], encodings[1::2], strict=True):
                if len(first) + len(second) > room:
                    truncated += 1
                    shorter, longer = sorted((first, second), key=len)
                    kept = min(len(shorter), room // 2)
                    shorter.truncate(kept)
                    longer.truncate(room - kept)
                ids.append(self.backend.post_process(first, second).ids)
        return ids, truncated

    def encode_masked(self, text: str) -> list[int]:
        """Return the ids of a text in which the mask token's text is a mask.

        ``[MASK]`` is recognized for every tokenizer, whatever its own mask token is. As in
        ModernBERT, the mask absorbs the white space before it.

        Raises:
            InputError: there is no mask in the text, or it is not a text.
        """
        check_text(text, allow_empty=True)
        mask = self.special.get("mask", SPECIAL["mask"])
        *before, last = text.replace(SPECIAL["mask"], mask).split(mask)
        if not before:
            raise InputError(
                f"there is no {mask} in the text", repr(text[:60]),
                f'write {mask} where a word is missing, as in "import {mask} as np"',
            )  # fmt: skip
        ids: list[int] = []
        for piece in before:
            piece = _TRAILING_SPACE.sub("", piece)
            ids += [*self.backend.encode(piece, add_special_tokens=False).ids, self.mask_id]
        ids += self.backend.encode(last, add_special_tokens=False).ids
        prefix, suffix = self.template_ids()
        return [*prefix, *ids, *suffix]

    def template_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that the template puts before and after a text."""
        encoding = self.backend.encode("a")
        before = encoding.special_tokens_mask.index(0)
        after = len(encoding.ids) - encoding.special_tokens_mask[::-1].index(0)
        return encoding.ids[:before], encoding.ids[after:]

    def truncate(self, ids: list[int], length: int) -> list[int]:
        """Truncate an encoded text to ``length`` tokens; the closing special tokens stay.

        Raises:
            InputError: the special tokens alone are longer.
        """
        if len(ids) <= check_integer(length, "length", 1):
            return ids
        prefix, suffix = self.template_ids()
        if length <= (special := len(prefix) + len(suffix)):
            raise InputError(f"no text fits into {length} tokens", how=f"use {special + 1} or more")
        return ids[: length - len(suffix)] + suffix

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included.

        Raises:
            InputError: an id is not an integer, or outside the vocabulary, as is -100.
        """
        tokens = check_document(ids, "the ids", allow_empty=True).tolist()
        last = max(tokens, default=0)
        if self.backend.id_to_token(last) is None and last >= self.vocab_size:
            what = f"token id {last} is outside the vocabulary"
            raise InputError(what, "the ids", f"use 0 to {self.vocab_size - 1}")
        return self.backend.decode(tokens, skip_special_tokens=False)

    def save(self, directory: str | Path, *, max_length: int = 8192) -> None:
        """Write a new directory that `load` and AutoTokenizer of transformers read.

        Raises:
            OutputExistsError: the directory exists and was not written by motherbird.
        """
        with new_directory(check_path(directory, "the directory"), "tokenizer") as fresh:
            self.write_files(fresh, check_integer(max_length, "max_length", 1))

    def write_files(self, directory: Path, max_length: int) -> None:
        """Write tokenizer.json and two more files, as transformers 4 and 5 read them."""
        names = {f"{role}_token": token for role, token in self.special.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": self.clean_up,
            **names,
        }
        (directory / "tokenizer.json").write_text(self.backend.to_str(), "utf-8")
        files = {"tokenizer_config.json": settings, "special_tokens_map.json": names}
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (directory / name).write_text(text, encoding="utf-8")


def _chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    return (texts[i : i + size] for i in range(0, len(texts), size))


def tokenizer(
    name_or_dir: str | Path, *, revision: str | None = None, split_special_tokens: bool = False
) -> Tokenizer:
    """Load a tokenizer from a directory, a tokenizer.json, or a name on the Hub at a revision.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = check_path(name_or_dir, "the tokenizer", PLACES)
    is_file = path.is_file() and not hub.is_included(name_or_dir)
    return load(path if is_file else hub.find(name_or_dir, revision), split_special_tokens)


def load(path: Path, split_special_tokens: bool = False) -> Tokenizer:
    """Load a tokenizer from a directory with tokenizer.json, or that file; see `tokenizer`."""
    path = check_path(path, "the tokenizer")
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError("there is no tokenizer.json", str(path))
    check_files(file.parent, [file.name])
    backend = _read_backend(file)
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file.parent / name).is_file():
            settings |= read_json_object(file.parent / name)
    special = {}
    for role in ROLES:
        stated = settings.get(f"{role}_token")
        stated = stated.get("content") if isinstance(stated, dict) else stated
        for token in (stated, *_ALIASES[role]):
            if isinstance(token, str) and backend.token_to_id(token) is not None:
                special[role] = token
                break
    if special.get("pad") == special.get("mask") and backend.token_to_id("[PAD]") is not None:
        special["pad"] = "[PAD]"  # PyLate stores the mask there
    clean_up = bool(settings.get("clean_up_tokenization_spaces", False))
    return Tokenizer(backend, special, clean_up, split_special_tokens)


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        if "model" not in read_json_object(file):  # duplicate keys and the like are errors
            raise InputError("it has no model", str(file))
    except InputError as error:
        raise InputError(f"not a tokenizer.json: {error.what}", error.where, PLACES) from error
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
        ids = backend.encode("a").ids
        if max(ids, default=0) > max(backend.get_vocab(with_added_tokens=True).values()):
            raise ValueError("its template adds ids outside the vocabulary")
    except BaseException as error:  # the library raises plain Exception, and panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"the tokenizer cannot be read ({error})", str(file)) from error
    return backend
