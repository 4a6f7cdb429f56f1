"""Counts of what was read, kept, dropped and skipped, with examples."""

from dataclasses import dataclass, field

from ..errors import counted

EXAMPLES = 3  # for each reason and source
BAD_EXAMPLES = 20


@dataclass
class Count:
    """A number of documents or files, their bytes (of text in UTF-8), and examples."""

    documents: int = 0
    bytes: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, size: int, example: dict[str, str] | None = None) -> None:
        """Count one document or file."""
        self.documents += 1
        self.bytes += size
        if example is not None and len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def example(self) -> str:
        """Return where the first example is, after the most frequent suffixes of files."""
        suffixes = ", ".join(e["suffix"] for e in self.examples if "suffix" in e)
        return f"{suffixes}, such as {self.examples[0]['where']}".removeprefix(", such as ")

    def merge(self, other: "Count") -> None:
        """Add another count."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.examples = [*self.examples, *other.examples][:EXAMPLES]


def merge_counts(counts: dict[str, Count], others: dict[str, Count]) -> None:
    """Add other counts to counts by reason."""
    for reason, count in others.items():
        counts.setdefault(reason, Count()).merge(count)


def describe(counts: dict[str, Count]) -> str:
    """Describe counts by reason, the largest first, with an example of each."""
    return "; ".join(
        f"{reason}: {count.documents:,} ({count.example()})"
        for reason, count in sorted(counts.items(), key=lambda item: -item[1].documents)
    )


@dataclass
class Tally:
    """How many documents of a source, or of a part of it, were read, kept and dropped."""

    read: Count = field(default_factory=Count)  # documents in its files
    kept: Count = field(default_factory=Count)  # documents in the corpus
    dropped: dict[str, Count] = field(default_factory=dict)  # documents by reason
    skipped: dict[str, Count] = field(default_factory=dict)  # files that were not used, by reason
    file_bytes: int = 0  # size of the files that were read
    bad: int = 0  # number of files, lines of JSON and rows that could not be read
    bad_kinds: dict[str, int] = field(default_factory=dict)  # the same by "file", "line" ...
    bad_row_files: int = 0  # number of files with lines or rows that could not be read
    bad_bytes: int = 0  # size of the files that could not be read, or not to their end
    bad_examples: tuple[str, ...] = ()  # the first of their errors
    bad_hint: str = ""  # what to do about the first of them that says so
    packages: tuple[str, ...] = ()  # archives that were downloaded

    def drop(self, reason: str, where: str, text: str, because: str = "") -> None:
        """Count a dropped document."""
        example = {"where": where, "text": " ".join(text[:200].split())[:80]}
        if because:
            example["because"] = because
        self.dropped.setdefault(reason, Count()).add(len(text.encode()), example)

    def add_bad(self, kind: str, error: str, hint: str, size: int = 0) -> None:
        """Count a "file", "line", "row", "package" or "dataset" that cannot be read."""
        one = Tally(
            bad=1, bad_kinds={kind: 1}, bad_bytes=size, bad_examples=(error,), bad_hint=hint
        )
        self.merge(one)

    def merge(self, other: "Tally") -> None:
        """Add another tally."""
        self.read.merge(other.read)
        self.kept.merge(other.kept)
        merge_counts(self.dropped, other.dropped)
        merge_counts(self.skipped, other.skipped)
        self.file_bytes += other.file_bytes
        self.bad += other.bad
        for kind, number in other.bad_kinds.items():
            self.bad_kinds[kind] = self.bad_kinds.get(kind, 0) + number
        self.bad_row_files += other.bad_row_files
        self.bad_bytes += other.bad_bytes
        self.bad_examples = (*self.bad_examples, *other.bad_examples)[:BAD_EXAMPLES]
        self.bad_hint = self.bad_hint or other.bad_hint
        self.packages = (*self.packages, *other.packages)

    def describe_bad(self) -> str:
        """Return what could not be read: "5 lines of 1 file and 2 files"."""

        def numbers(*kinds: str) -> list[str]:
            return [counted(self.bad_kinds[k], k) for k in kinds if k in self.bad_kinds]

        rows = numbers("line", "row")
        if rows and self.bad_row_files:
            rows[-1] += f" of {counted(self.bad_row_files, 'file')}"
        return " and ".join(rows + numbers("file", "package", "dataset"))

    def describe_losses(self) -> str:
        """Return what was dropped, skipped or could not be read: "too short: 3 (a.txt); ..."."""
        told = [describe(counts) for counts in (self.dropped, self.skipped) if counts]
        if self.bad:
            told.append(f"{self.describe_bad()} without usable text ({self.bad_examples[0]})")
        return "; ".join(told) or "nothing was read"

    def losses(self) -> tuple[float, float]:
        """Return the fractions of documents and of bytes that were dropped.

        Documents are counted as they are kept or dropped: long ones are several.
        """
        documents = sum(count.documents for count in self.dropped.values())
        size = sum(count.bytes for count in self.dropped.values())
        kept = self.kept
        return documents / max(1, documents + kept.documents), size / max(1, size + kept.bytes)
