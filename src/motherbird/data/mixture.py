"""A mixture: named sources of text and how they are processed, in a TOML file."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ..disk import check_outside
from ..errors import InputError
from ..strict import load
from .readers.document import check_local, missing
from .readers.formats import LANGUAGES
from .readers.listing import RULES, Rule

# A name and optionally a version; nothing that a client would take as a path, URL or option.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
_PACKAGE = re.compile(rf"(pypi:{_NAME}|deb:{_NAME}|npm:(@{_NAME}/)?{_NAME})(=={_NAME})?")


@dataclass(frozen=True)
class Source:
    """A source of text, and filters of its documents. Sizes are in characters."""

    BY_NAME: ClassVar = True  # errors in a mixture name it, not its index
    name: str  # its name in reports
    path: str | None = None  # a file or directory, relative to the file of the mixture
    # packages of registries: "pypi:NAME", "deb:NAME" or "npm:NAME", optionally with ==VERSION; each
    # is downloaded, unpacked and read like a directory
    packages: tuple[str, ...] = ()
    # a Hugging Face dataset: a directory of `save_to_disk`, or a name on the Hub
    dataset: str | None = None
    subset: str | None = None  # the configuration of the dataset
    split: str = "train"  # the split of the dataset
    field: str = "text"  # the field of the text in .jsonl, Parquet and datasets
    encoding: str = "utf-8"  # that of plain text and tables; that of HTML is detected
    # patterns of its files, such as ["*.html", "!*/locale/*"]; all text files if not set
    files: tuple[str, ...] = ()
    code: tuple[str, ...] = ()  # keep only source code in these languages
    # which files of a directory are not used: "gitignored" (by the .gitignore files in it),
    # "vendored" (in directories such as node_modules, vendor and site-packages, and virtual
    # environments), "generated" and "minified" source code. If not set, all four for the directory
    # of ``path``, and none for packages; with [], every file is used.
    skip: tuple[Rule, ...] | None = None
    # keep only this natural language ("en"), as detected by resiliparse
    language: str | None = None
    min_chars: int = 1  # drop shorter documents
    max_chars: int = 1_000_000  # cut longer documents at the end of a paragraph
    max_line: int | None = None  # drop documents with a longer line, such as data and minified code
    # drop documents with a smaller fraction of letters and white space, such as tables, logs and
    # lists of numbers
    min_letters: float = 0.0
    max_tokens: int | None = None  # use only a random part of a larger source
    licence: str = ""  # the license of the text, for the record
    optional: bool = False  # continue without the source if it is not available

    def __post_init__(self) -> None:
        try:
            "a".encode(self.encoding)
        except (LookupError, ValueError) as error:
            how = "use a name that Python knows, such as utf-8, latin-1 or cp1252"
            raise InputError(f"encoding = {self.encoding!r} is unknown: {how}") from error
        origins = (self.path, self.packages or None, self.dataset)
        for local in (self.path, self.dataset):
            check_local(local or "")
        if sum(origin is not None for origin in origins) != 1:
            raise InputError("a source needs exactly one of path, packages and dataset")
        if not self.name or "/" in self.name:
            raise InputError(f"name = {self.name!r} has to be non-empty and without /")
        for name in self.code:
            if name not in LANGUAGES:
                raise InputError(f"code = {name!r} is not one of {', '.join(LANGUAGES)}")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise InputError(f"package {package!r} is not pypi:NAME, deb:NAME or npm:NAME")
        self._check_sizes()

    def _check_sizes(self) -> None:
        for what in ("max_tokens", "max_line", "min_chars", "max_chars"):
            value = getattr(self, what)
            if value is not None and value <= 0:
                raise InputError(f"{what} = {value} has to be more than 0")
        if self.min_chars > self.max_chars:
            what = f"min_chars = {self.min_chars} is more than max_chars = {self.max_chars}"
            raise InputError(what)
        if not 0 <= self.min_letters <= 1:
            raise InputError(f"min_letters = {self.min_letters} has to be 0 to 1")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of ``skip`` that apply."""
        if self.skip is not None:
            return self.skip
        return RULES if self.path is not None and Path(self.path).is_dir() else ()


@dataclass(frozen=True)
class Mixture:
    """Named sources, and settings for all of them."""

    # the sources ([[source]] in TOML), in order of precedence: of equal documents the first is kept
    source: tuple[Source, ...] = ()
    # files of other mixtures. Their sources are put before these, and their evaluation sets are
    # used too; their other settings are ignored.
    include: tuple[str, ...] = ()
    # by source, its part of the tokens of an epoch, relative to the sum of all weights: a source
    # with half of these tokens is used twice. Without weights, every document is used once.
    weights: dict[str, float] = field(default_factory=dict)
    # Jaccard similarity of five-word sequences from which the later of two documents is dropped; if
    # not set, only equal documents are dropped. Two characters of Chinese or Japanese count as a
    # word, and four of Thai, Lao, Khmer or Burmese.
    near_duplicates: float | None = None
    # files and directories of evaluation sets; documents that share 13 consecutive words (counted
    # in the same way) with one of their texts are dropped
    decontaminate: tuple[str, ...] = ()
    # fraction that may be unreadable: of the documents, and of the bytes of the files. A file that
    # is not text, or cannot be read to its end, counts with all its bytes. If not set, files that
    # are not text are skipped, and damaged ones (an invalid line of JSON, a truncated compressed
    # file) are errors.
    max_bad: float | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.source]
        if not names and not self.include:
            raise InputError("the mixture has no [[source]] table")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two sources are called {name!r}")
        if self.weights and not self.include:
            self._check_weights(names)
        for path in self.decontaminate:
            check_local(path)
        for what in ("near_duplicates", "max_bad"):
            value = getattr(self, what)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{what} = {value} has to be 0 to 1")

    def _check_weights(self, names: list[str]) -> None:
        if unknown := sorted(self.weights.keys() - set(names)):
            how = f"the sources are {', '.join(names)}"
            raise InputError(f"weights.{unknown[0]}: there is no such source", how=how)
        for name in sorted(names):
            if name not in self.weights:
                raise InputError(f"either all sources have a weight or none; {name!r} has none")
            if self.weights[name] <= 0:
                raise InputError(f"weights.{name} = {self.weights[name]} has to be more than 0")
        capped = [source.name for source in self.source if source.max_tokens is not None]
        if capped:
            raise InputError(f"source {capped[0]!r}: weights and max_tokens exclude each other")


def read(
    path: str | Path, *, max_bad: float | None = None, decontaminate: Sequence[str] = ()
) -> Mixture:
    """Read a mixture from a TOML file, or return one with a file or directory as its source.

    Paths are made absolute, and included mixtures are resolved. ``max_bad`` overrides the value of
    the file, and ``decontaminate`` is added to it, relative to the current directory. The file and
    all paths have to exist (InputError).
    """
    if not Path(path).exists():
        raise missing(path)
    path = Path(os.path.abspath(path))  # links are kept: their names have the suffix of the format
    if path.is_file() and path.suffix.lower() == ".toml":
        path = path.resolve()
        mixture = _absolute(load(Mixture, path), path.parent, (path,))
    else:
        mixture = Mixture(source=(Source(path.name.split(".")[0] or "text", path=str(path)),))
    for name in decontaminate:
        check_local(name)
    paths = (*mixture.decontaminate, *map(os.path.abspath, decontaminate))
    for name in paths:
        if not Path(name).exists():
            raise InputError("decontaminate: the file or directory does not exist", name)
    return replace(
        mixture, decontaminate=paths, max_bad=mixture.max_bad if max_bad is None else max_bad
    )


def _absolute(mixture: Mixture, home: Path, seen: tuple[Path, ...]) -> Mixture:
    sources: list[Source] = []
    decontaminate: list[str] = []
    for name in mixture.include:
        path = (home / name).resolve()
        if path in seen:
            raise InputError("the mixture includes itself", str(path))
        included = _absolute(load(Mixture, path), path.parent, (*seen, path))
        sources += included.source
        decontaminate += included.decontaminate
    for source in mixture.source:
        if source.path is not None:
            path = Path(os.path.abspath(home / source.path))
            source = replace(source, path=str(path))
            if not path.exists() and not source.optional:
                what = f"source {source.name!r}: the file or directory does not exist"
                how = "correct its path, or set optional = true"
                raise InputError(what, str(path), how)
        if source.dataset is not None and (home / source.dataset).exists():
            source = replace(source, dataset=os.path.abspath(home / source.dataset))
        sources.append(source)
    decontaminate += [os.path.abspath(home / name) for name in mixture.decontaminate]
    return replace(mixture, source=tuple(sources), include=(), decontaminate=tuple(decontaminate))


def check_output(mixture: Mixture, out: Path) -> None:
    """Raise InputError if the output is inside a source or an evaluation set."""
    inputs = [path for source in mixture.source for path in (source.path, source.dataset) if path]
    check_outside(out, [*inputs, *mixture.decontaminate])
