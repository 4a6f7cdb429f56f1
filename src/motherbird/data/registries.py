"""Packages from PyPI, Debian and npm, downloaded with their clients and unpacked."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from ..errors import FetchError

LIMIT = 1800  # seconds of a download


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
    inside = folder / "inside"
    inside.mkdir()
    try:
        if registry == "deb":
            _call(["dpkg-deb", "-x", str(archive), str(inside)], fetched, package)
        elif registry == "pypi":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(inside)
        else:
            if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
                how = "use Python 3.11.4 or later"
                raise FetchError("Python cannot safely extract the archive", package, how)
            with tarfile.open(archive) as tar:
                tar.extractall(inside, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise FetchError(f"the package cannot be unpacked ({error})", package) from error
    archive.unlink()
    return archive.name


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
