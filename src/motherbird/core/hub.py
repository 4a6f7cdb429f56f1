"""From the name of a model to a folder on this machine."""

import re
from pathlib import Path

from ..errors import InputError


def find(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """The local directory of a model: as given, or downloaded (or cached) from the Hub.

    Raises:
        InputError: there is no such directory, and no such model can be had from the Hub.
    """
    name = str(name_or_dir)
    try:
        path = Path(name_or_dir).expanduser()
        if path.is_dir():
            return path
        if path.exists():
            raise InputError("a model is a directory, and this is a file", name)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"there is no such directory ({reason})", name[:100]) from error
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError("there is no such directory", name, "give a model's folder or owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "1_Pooling/*"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"there is no such directory, and the Hub did not give it ({reason})",
            name if revision is None else f"{name} at revision {revision}",
            "check the name, or copy the model here and give its folder",
        ) from error
