"""Text to token ids and back: load any tokenizer.json, train our own, save for AutoTokenizer.

The text of a special token inside a document is plain text: ``"[SEP]"`` in a README is five
characters, not the end of a document. Only `Tokenizer.encode_masked` looks for the mask.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import InputError
from ..files import check_files, new_directory, read_json
from . import hub

ROLES = ("unk", "cls", "sep", "pad", "mask")
SPECIAL = dict(zip(ROLES, ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), strict=True))
UNUSED = 83  # slots that ModernBERT leaves for its users
# Names that other families give to the same roles.
_ALIASES = {
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<bos>"),
    "sep": ("[SEP]", "</s>", "<eos>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
}


# White space by Unicode; Python's own notion adds the separators 1C to 1F.
_SPACE_BEFORE = re.compile(r"[^\S\x1c-\x1f]+\Z")


class Tokenizer:
    """A `tokenizers.Tokenizer` with the roles of its special tokens.

    Args:
        backend: the tokenizer proper; its own padding and truncation are switched off.
        special: role ("cls", "mask", ...) to token text.
        clean_up: the ``clean_up_tokenization_spaces`` that its files state.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, special: dict[str, str], clean_up: bool = False
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        # Not a setting of the file: special tokens in the text are split like any other text.
        backend.encode_special_tokens = True
        self.backend = backend
        self.special = special
        self.clean_up = clean_up

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def special_ids(self) -> list[int]:
        """Ids of all special tokens, ascending: those with a role and any other in the file."""
        added = self.backend.get_added_tokens_decoder()
        ids = {i for i, token in added.items() if token.special}
        return sorted(ids | {self.id_of(role) for role in self.special})

    def id_of(self, role: str) -> int:
        """The id of the special token with this role ("cls", "sep", "pad", "mask", "unk").

        Raises:
            InputError: the tokenizer has none.
        """
        token = self.backend.token_to_id(self.special[role]) if role in self.special else None
        if token is None:
            raise InputError(f"the tokenizer has no {role} token", how="use another tokenizer")
        return token

    @property
    def mask_id(self) -> int:
        """The id of the mask token."""
        return self.id_of("mask")

    def encode(self, text: str) -> list[int]:
        """Ids of a text with the special tokens around it that the tokenizer's template adds."""
        return self.backend.encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        ids: list[list[int]] = []
        for i in range(0, len(texts), 64):  # an encoding is many times the size of its ids
            ids += [e.ids for e in self.backend.encode_batch_fast(list(texts[i : i + 64]))]
        return ids

    def encode_masked(self, text: str) -> list[int]:
        """Ids of a text in which the mask token's text is a mask.

        ``[MASK]`` is understood by every tokenizer, whatever it calls its own mask. As in
        ModernBERT's the mask takes the space before it.

        Raises:
            InputError: there is no mask in the text.
        """
        mask = self.special.get("mask", SPECIAL["mask"])
        first, *others = text.replace(SPECIAL["mask"], mask).split(mask)
        if not others:
            raise InputError(
                f"no {mask} in the text", repr(text[:60]), f"write {mask} where to guess"
            )
        pieces = [first, *others]
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            piece = piece if last else _SPACE_BEFORE.sub("", piece)
            ids += self.backend.encode(piece, add_special_tokens=False).ids
            if not last:
                ids.append(self.mask_id)
        prefix, suffix = self.template_ids()
        return [*prefix, *ids, *suffix]

    def template_ids(self) -> tuple[list[int], list[int]]:
        """The ids that the template puts before and after a text."""
        encoding = self.backend.encode("a")
        inside = encoding.special_tokens_mask.index(0)
        after = len(encoding.ids) - encoding.special_tokens_mask[::-1].index(0)
        return encoding.ids[:inside], encoding.ids[after:]

    def truncate(self, ids: list[int], length: int) -> list[int]:
        """Cut an encoded text to ``length`` tokens; the closing special tokens stay.

        Raises:
            InputError: the special tokens alone are longer.
        """
        if len(ids) <= length:
            return ids
        prefix, suffix = self.template_ids()
        if length <= len(prefix) + len(suffix):
            raise InputError(f"nothing of a text fits into {length} tokens")
        return ids[: length - len(suffix)] + suffix

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def save(self, directory: str | Path, *, max_length: int = 8192) -> None:
        """Write a new directory that `load` and transformers' AutoTokenizer read.

        Raises:
            OutputExistsError: the directory exists and is not ours.
        """
        with new_directory(Path(directory).expanduser(), "tokenizer") as fresh:
            self.write_files(fresh, max_length)

    def write_files(self, directory: Path, max_length: int) -> None:
        """Write tokenizer.json and its two companions, in the form that 4.x and 5.x both read."""
        names = {f"{role}_token": token for role, token in self.special.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": self.clean_up,
            **names,
        }
        (directory / "tokenizer.json").write_text(self.backend.to_str(), "utf-8")
        for name, content in (
            ("tokenizer_config.json", settings),
            ("special_tokens_map.json", names),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (directory / name).write_text(text, encoding="utf-8")


def tokenizer(name_or_dir: str | Path, *, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer from a directory, a tokenizer.json, or a name on the Hub.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(name_or_dir)
    return load(path if path.is_file() else hub.find(name_or_dir, revision))


def load(path: Path) -> Tokenizer:
    """Load from a directory with tokenizer.json, or from such a file itself.

    Raises:
        InputError: as `tokenizer`.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError("there is no tokenizer.json", str(path))
    check_files(file.parent, [file.name])
    read_json(file)  # for its errors: duplicate keys and the like
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
        inside = backend.encode("a").ids
        if max(inside, default=0) > max(backend.get_vocab(with_added_tokens=True).values()):
            raise ValueError("its template adds ids that it does not have")
    except BaseException as error:  # the library raises bare Exception, and panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"not a tokenizer that can be read ({error})", str(file)) from error
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        companion = file.parent / name
        if companion.is_file():
            settings |= _mapping(read_json(companion), companion)
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
    return Tokenizer(backend, special, bool(settings.get("clean_up_tokenization_spaces", False)))


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("not a JSON object", str(path))
    return value


def check_size(size: int) -> None:
    """Refuse a vocabulary that `train` cannot make.

    Raises:
        InputError: it is no multiple of 64, or smaller than bytes, spaces and special tokens.
    """
    smallest = -(-(256 + 1 + len(SPECIAL) + UNUSED) // 64) * 64
    if size % 64 or size < smallest:
        raise InputError(
            f"a vocabulary of {size} is impossible", how=f"give a multiple of 64 from {smallest}"
        )


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a code-aware byte-level BPE; at the end the five special tokens and 83 unused slots.

    NFC and GPT-2's splitting, as in ModernBERT; but a line's end is learned together with the
    indentation behind it, where OLMo and ModernBERT put runs of spaces apart beforehand, so that
    a line of code costs a token less. BERT's template.

    Args:
        texts: documents; read once.
        size: entries in all, a multiple of 64 (which matrix units like).

    Raises:
        InputError: the size is impossible, or the text is too small to fill it.
    """
    check_size(size)
    fixed = len(SPECIAL) + UNUSED
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - fixed,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size()
    if learned < size - fixed:
        reachable = (learned + fixed) // 64 * 64
        raise InputError(
            f"the text is too small for a vocabulary of {size}",
            how=f"give more text, or a size of at most {reachable}",
        )
    return complete(backend)


def complete(backend: tokenizers.Tokenizer) -> Tokenizer:
    """Append the five special tokens and the unused slots, and set BERT's template.

    On OLMo's tokenizer this gives ModernBERT's own, entry by entry.
    """
    # The mask takes the space before it, so that "a [MASK]" has no lone space token.
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
    return Tokenizer(backend, dict(SPECIAL))
