"""A mixture: named sources of text and what is done with them, one TOML file."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InputError
from ..strict import load
from .readers.plain import LANGUAGES

# A name and perhaps a version, nothing that a client takes for a path, a URL or an option.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
_PACKAGE = re.compile(rf"(pypi:{_NAME}|deb:{_NAME}|npm:(@{_NAME}/)?{_NAME})(=={_NAME})?")


@dataclass(frozen=True)
class Source:
    """Where text comes from, and which of it is kept. Sizes are in characters.

    Attributes:
        name: what reports call it.
        path: a file or folder, relative to the mixture's file.
        packages: of registries: "pypi:NAME", "deb:NAME" or "npm:NAME", with ==VERSION if wanted;
            each is downloaded, unpacked and read like a folder.
        dataset: a data set in Hugging Face's format, a folder or a name on the Hub.
        subset: of the data set.
        split: of the data set.
        field: the text's name in .jsonl, Parquet and data sets.
        encoding: of plain text; HTML says its own.
        files: which files of a folder, such as ["*.html", "!*/locale/*"]; all that are text if
            not set.
        code: only source code in these languages.
        language: only this natural language ("en"), as resiliparse tells it.
        min_chars: shorter documents are dropped.
        max_chars: longer documents are cut where a paragraph ends.
        max_line: documents with a longer line are dropped: data, minified code.
        min_letters: share of letters and white space below which a document is dropped: tables,
            logs, lists of numbers.
        max_tokens: of a larger source a part is taken, chosen by chance.
        licence: of the text, for the record.
        optional: where the source cannot be had, go on without it.
    """

    name: str
    path: str | None = None
    packages: tuple[str, ...] = ()
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    field: str = "text"
    encoding: str = "utf-8"
    files: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    language: str | None = None
    min_chars: int = 1
    max_chars: int = 1_000_000
    max_line: int | None = None
    min_letters: float = 0.0
    max_tokens: int | None = None
    licence: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        try:
            b"a".decode(self.encoding)
        except (LookupError, ValueError) as error:
            raise InputError(f"encoding = {self.encoding!r} is unknown") from error
        places = [self.path is not None, bool(self.packages), self.dataset is not None]
        if sum(places) != 1:
            raise InputError("needs exactly one of path, packages and dataset")
        if not self.name or "/" in self.name:
            raise InputError(f"name = {self.name!r} has to be a word without /")
        unknown = [name for name in self.code if name not in LANGUAGES]
        if unknown:
            raise InputError(f"code = {unknown[0]!r} is not one of {', '.join(LANGUAGES)}")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise InputError(f"package {package!r} is not pypi:NAME, deb:NAME or npm:NAME")
        for what in ("max_tokens", "max_line", "min_chars", "max_chars"):
            value = getattr(self, what)
            if value is not None and value <= 0:
                raise InputError(f"{what} = {value} has to be more than 0")
        if not 0 <= self.min_letters <= 1:
            raise InputError(f"min_letters = {self.min_letters} has to be 0 to 1")


@dataclass(frozen=True)
class Mixture:
    """Named sources, and what is done across all of them.

    Attributes:
        source: the sources ([[source]] in TOML), in order of precedence: of equal documents the
            first is kept.
        include: other mixtures' files, whose sources come before these, and whose evaluation sets
            count here too; their other settings do not.
        weights: by source, its share of an epoch beside the others: of a source of half the wanted
            size every document comes twice. Without any, every document comes once.
        near_duplicates: the share of common five-word runs (Jaccard) from which the later of two
            documents is dropped; not looked for if not set. Equal documents are always dropped.
        decontaminate: files and folders of evaluation sets: documents that share a run of 13 words
            with a text of theirs are dropped.
        max_bad: what share of the documents may be unreadable before the work fails. If not set,
            files that are no text are skipped, and damaged ones (a broken line of JSON, a
            compressed file cut short) fail.
    """

    source: tuple[Source, ...] = ()
    include: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    near_duplicates: float | None = None
    decontaminate: tuple[str, ...] = ()
    max_bad: float | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.source]
        if not names and not self.include:
            raise InputError("has no [[source]]")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two sources are called {name!r}")
        if self.weights and not self.include:
            self._check_weights(names)
        for what in ("near_duplicates", "max_bad"):
            value = getattr(self, what)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{what} = {value} has to be 0 to 1")

    def _check_weights(self, names: list[str]) -> None:
        for name in sorted({*names, *self.weights}):
            if name not in self.weights:
                raise InputError(f"source {name!r} has no weight, others have")
            if name not in names:
                raise InputError(f"weights.{name}: there is no such source")
            if self.weights[name] <= 0:
                raise InputError(f"weights.{name} = {self.weights[name]} has to be more than 0")
        capped = [source.name for source in self.source if source.max_tokens is not None]
        if capped:
            raise InputError(f"source {capped[0]!r}: weights and max_tokens exclude each other")


def read(
    path: str | Path, *, max_bad: float | None = None, decontaminate: Sequence[str] = ()
) -> Mixture:
    """A mixture from its TOML file, or one of a single source from a folder or a file of text.

    Paths become absolute, and the sources of included mixtures its own.

    Args:
        path: the mixture's file, or text.
        max_bad: instead of the file's own.
        decontaminate: beside the file's own; relative to the current folder.

    Raises:
        InputError: it is missing, does not fit, or names a path that does not exist.
    """
    path = Path(path).resolve()
    if not path.exists():
        raise InputError("there is no such file or folder", str(path))
    if path.is_file() and path.suffix == ".toml":
        mixture = _absolute(load(Mixture, path), path.parent, (path,))
    else:
        mixture = Mixture(source=(Source(path.name.split(".")[0] or "text", path=str(path)),))
    against = (*mixture.decontaminate, *(str(Path(name).resolve()) for name in decontaminate))
    for name in against:
        if not Path(name).exists():
            raise InputError("decontaminate: there is no such file or folder", name)
    return replace(
        mixture,
        decontaminate=against,
        max_bad=mixture.max_bad if max_bad is None else max_bad,
    )


def _absolute(mixture: Mixture, home: Path, seen: tuple[Path, ...]) -> Mixture:
    sources: list[Source] = []
    against: list[str] = []
    for name in mixture.include:
        path = (home / name).resolve()
        if path in seen:
            raise InputError("the mixture includes itself", str(path))
        included = _absolute(load(Mixture, path), path.parent, (*seen, path))
        sources += included.source
        against += included.decontaminate
    for source in mixture.source:
        if source.path is not None:
            source = replace(source, path=os.path.abspath(home / source.path))
            if not os.path.exists(source.path or "") and not source.optional:
                raise InputError(
                    f"source {source.name!r}: there is no such file or folder",
                    source.path or "",
                    "correct its path, or set optional = true",
                )
        if source.dataset is not None and (home / source.dataset).exists():
            source = replace(source, dataset=os.path.abspath(home / source.dataset))
        sources.append(source)
    against += [os.path.abspath(home / name) for name in mixture.decontaminate]
    return replace(mixture, source=tuple(sources), include=(), decontaminate=tuple(against))


def check_output(mixture: Mixture, out: Path) -> None:
    """Refuse to write where the next run would read.

    Raises:
        InputError: the output lies inside a source or an evaluation set.
    """
    inputs = [path for source in mixture.source for path in (source.path, source.dataset) if path]
    for name in (*inputs, *mixture.decontaminate):
        path = Path(name).resolve()
        if path.is_dir() and path in (out.resolve(), *out.resolve().parents):
            raise InputError(
                f"the output would lie inside the source {name}",
                str(out),
                "name another with --out",
            )
