"""Where the workbench finds its data and keeps what it can rebuild.

Not covered: where results go; the caller names that.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

CACHE_VARIABLE = "WORKBENCH_CACHE_DIR"
PRICES_VARIABLE = "WORKBENCH_PRICES"
_CACHE_NAME = "nested-hvm-workbench"


@cache
def data_dir() -> Path:
    """The ``data`` directory: inside the installed package, else at the top of the checkout.

    Raises
    ------
    FileNotFoundError
        When neither is there: the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "data", package.parent / "data"):
        if (place / "arch").is_dir():
            return place
    raise FileNotFoundError(f"no data directory beside {package}; please install again")


def cache_dir() -> Path:
    """Directory for files that can always be made again; created when it is missing.

    ``WORKBENCH_CACHE_DIR`` names another place.  Without a writable home the system's directory
    for temporary files is used.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    place = Path(chosen).expanduser() if chosen else _user_cache() / _CACHE_NAME
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        place = Path(tempfile.gettempdir()) / _CACHE_NAME
        place.mkdir(parents=True, exist_ok=True)
    return place


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def user_prices_dir() -> Path:
    """Directory of the user's own price presets; it need not exist.

    ``WORKBENCH_PRICES`` names another place.
    """
    chosen = os.environ.get(PRICES_VARIABLE)
    return Path(chosen).expanduser() if chosen else _user_config() / _CACHE_NAME / "prices"


def _user_config() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old file or the whole new one.

    Parameters
    ----------
    path : Path
        Target; its directory is created.
    content : bytes
        The whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
