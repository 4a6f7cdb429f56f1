"""Packages from PyPI, Debian and npm, downloaded with their clients and unpacked."""

import gzip
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

from ..errors import FetchError

LIMIT = 1800  # seconds of a download
ZIPPED = (".whl", ".zip")
DAMAGE = (  # what reading an archive raises; RuntimeError if it has a password
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError,
)  # fmt: skip


def fetch(package: str, folder: Path) -> str:
    """Download a package and unpack it, without running or installing it.

    The package is "pypi:NAME", "deb:NAME" or "npm:NAME", optionally with ==VERSION. Its files are
    unpacked to "inside" in an empty directory. Returns the file name of the archive, which contains
    the version, or raises FetchError with the message of the client.
    """
    registry, _, wanted = package.partition(":")
    name, _, version = wanted.partition("==")
    fetched = folder / "fetched"
    fetched.mkdir()
    if registry == "pypi":
        options = "-q --no-deps --only-binary :all: --no-cache-dir -d ."
        command = [sys.executable, "-m", "pip", "download", *options.split(), wanted]
    elif registry == "deb":
        command = ["apt-get", "download", "-q", f"{name}={version}" if version else name]
    else:
        options = "--silent --ignore-scripts --cache ../cache"
        command = ["npm", "pack", *options.split(), f"{name}@{version}" if version else name]
    _call(command, fetched, package)
    archive = next(iter(sorted(fetched.iterdir())), None)
    if archive is None:
        raise FetchError("the client downloaded nothing", package)
    if registry == "deb":
        (folder / "inside").mkdir()
        _call(["dpkg-deb", "-x", str(archive), str(folder / "inside")], fetched, package)
    else:
        unpack(archive, folder / "inside", package)
    archive.unlink()
    return archive.name


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a wheel, a .zip file or a tar archive to a new directory.

    No file is written outside of the directory. FetchError, with the name, if it cannot be read.
    """
    folder.mkdir()
    try:
        if archive.suffix.lower() in ZIPPED:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder)
            return
        if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
            how = "use Python 3.11.4 or later"
            raise FetchError("Python cannot safely extract the archive", name, how)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except DAMAGE as error:
        raise FetchError(f"the package cannot be unpacked ({error})", name) from error


def _call(command: list[str], folder: Path, package: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]} is not installed", package) from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{command[0]} took more than {LIMIT} seconds", package) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise FetchError(f"the package cannot be downloaded ({said[:200]})", package)
