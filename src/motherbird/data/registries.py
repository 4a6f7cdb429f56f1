"""Packages as text: fetched from PyPI, Debian and npm by their own clients, and unpacked."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from ..errors import FetchError

LIMIT = 1800  # seconds that a download may take


def fetch(package: str, folder: Path) -> str:
    """Download a package and unpack it into an empty folder; nothing of it is run or installed.

    Args:
        package: "pypi:NAME", "deb:NAME" or "npm:NAME", with ==VERSION if wanted.
        folder: where to.

    Returns:
        The file name of what was fetched, which holds its version.

    Raises:
        FetchError: it cannot be fetched or unpacked; says what the client said.
    """
    registry, _, wanted = package.partition(":")
    name, _, version = wanted.partition("==")
    fetched = folder / "fetched"
    fetched.mkdir()
    if registry == "pypi":
        how = [
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--no-cache-dir",
            "-d",
            ".",
        ]
        _call([sys.executable, *how, wanted], fetched, package)
    elif registry == "deb":
        at = f"={version}" if version else ""
        _call(["apt-get", "download", "-q", name + at], fetched, package)
    else:
        at = f"@{version}" if version else ""
        _call(
            ["npm", "pack", "--silent", "--ignore-scripts", "--cache", "../cache", name + at],
            fetched,
            package,
        )
    archive = next(iter(sorted(fetched.iterdir())), None)
    if archive is None:
        raise FetchError("the client fetched nothing", package)
    inside = folder / "inside"
    inside.mkdir()
    try:
        if registry == "deb":
            _call(["dpkg-deb", "-x", str(archive), str(inside)], fetched, package)
        elif registry == "pypi":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(inside)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(inside, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise FetchError(f"cannot be unpacked ({error})", package) from error
    archive.unlink()
    return archive.name


def _call(command: list[str], folder: Path, package: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError as error:
        raise FetchError(f"needs {command[0]}, which is not installed", package) from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{command[0]} took more than {LIMIT} seconds", package) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise FetchError(f"cannot be fetched ({said[:200]})", package)
