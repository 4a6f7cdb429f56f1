"""Which files of a directory are searched."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from ..data.readers import ignore
from ..data.readers.listing import Listing, list_files, settled
from ..data.tally import Count
from . import pdf
from .chunks import data
from .entry import State
from .languages import language_of

RULES = ("gitignored", "vendored")
TEXT = (
    ".txt", ".md", ".markdown", ".rst", ".tex", ".adoc", ".org", ".html", ".htm", ".xhtml",
    ".ipynb", ".css", ".scss", ".less", ".sql", ".proto", ".graphql", ".vue", ".svelte", ".r",
    ".pl", ".pm", ".clj", ".cljs", ".dart", ".erl", ".hrl", ".fs", ".fsx", ".m", ".mm", ".groovy",
    ".gradle", ".ps1", ".bat", ".fish", ".zsh", ".vim", ".el", ".lisp", ".scm", ".nim", ".cr",
    ".v", ".sv", ".vhd", ".asm", ".s", ".cmake", ".mk", ".tf", ".dockerfile", ".xml", ".pxd",
    ".jinja", ".j2", ".mdx", pdf.SUFFIX,
)  # fmt: skip
NAMES = re.compile(
    r"makefile|dockerfile|containerfile|rakefile|gemfile|justfile|procfile|jenkinsfile|vagrantfile|"
    r"cmakelists\.txt|readme|license|copying|authors|changes|changelog|contributing|notice|todo|"
    r"news|install|build|workspace",
    re.IGNORECASE,
)
LOCKS = re.compile(
    r"(?:package-lock|npm-shrinkwrap|composer\.lock|pnpm-lock|packages\.lock|flake)\.(?:json|yaml)|"
    r"(?:yarn|poetry|uv|cargo|gemfile|pipfile|composer|mix|pubspec|flake|pdm)\.lock|go\.sum",
    re.IGNORECASE,
)
SECRETS = re.compile(
    r"(?:^|[._-])(?:secrets?|credentials?|passwords?|private[_-]?keys?)(?:[._-]|$)|"
    r"\.(?:pem|key|p12|pfx|keystore|jks)$",
    re.IGNORECASE,
)
LARGEST = 2_000_000  # bytes of a file


def find_files(root: Path) -> Listing:
    """List the files that may be searched, and count the others by reason.

    Raises:
        InputError: a .gitignore file cannot be read.
    """
    files = (global_ignore(), root / ".git" / "info" / "exclude")
    ignored = [ignore.read_file(path, root) for path in files]
    names = (ignore.NAME, ignore.OWN)
    found = list_files(root, _wanted, RULES, follow_links=False, ignored=ignored, names=names)
    for path in files:
        if path.is_file():
            found.seen[os.fspath(path)] = settled(path.stat().st_ctime_ns)
    return found


def to_bytes(listing: Listing) -> bytes:
    """Return a listing as JSON."""
    skipped = {reason: asdict(count) for reason, count in listing.skipped.items()}
    data = {"names": listing.names, "skipped": skipped, "seen": listing.seen}
    return json.dumps(data).encode()


def from_bytes(root: Path, data: bytes) -> Listing:
    """Return the listing of `to_bytes`."""
    found = json.loads(data)
    skipped = {reason: Count(**count) for reason, count in found["skipped"].items()}
    return Listing(root, found["names"], skipped, found["seen"])


def global_ignore() -> Path:
    """Return the file of patterns that git uses in every repository, unless its settings differ."""
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(settings) / "git" / "ignore"


def _wanted(path: str) -> bool | None:
    """Return whether a file may be searched, by its path; None if only its suffix is against it."""
    name = path.rpartition("/")[2].lower()
    if language_of(name) is not None or name.endswith((*TEXT, *data.SUFFIXES)):
        return True
    return True if NAMES.fullmatch(name) else None


def reason_against(path: str, state: State) -> str | None:
    """Return why a file is left out, by its path and size, or None."""
    name = path.rpartition("/")[2]
    if LOCKS.fullmatch(name):
        return "lock files"
    if language_of(name) is None and SECRETS.search(name):
        return "secrets, by their names"
    is_pdf = pdf.is_pdf(name)
    if is_pdf and not pdf.is_readable():
        return pdf.MISSING
    if state.size > (largest := pdf.LARGEST if is_pdf else LARGEST):
        return f"larger than {largest // 10**6} MB"
    return None


def state_of(path: str | Path) -> State:
    """Return the state of a file; OSError if it cannot be read."""
    found = os.stat(path)
    return State(found.st_size, found.st_mtime_ns)
