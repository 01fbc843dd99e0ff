"""Where a result comes from: versions, hashes of data and model, and the sources it rests on."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path

from .paths import data_dir

PACKAGES = ("numpy", "numba", "llvmlite", "pandas", "pyarrow", "iced-x86", "matplotlib")
_DATA_SUFFIXES = {".csv", ".S", ".toml", ".bib", ".txt"}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _hash_files(folder: Path, wanted: set[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        if path.suffix in wanted and path.is_file():
            text = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + text + b"\0")
    return digest.hexdigest()


@cache
def workbench_version() -> str:
    """Version of this package; ``0+source`` when it runs from a checkout that is not installed."""
    for name in ("nested-hvm-workbench", "workbench"):
        if (version := _version(name)) != "not installed":
            return version
    return "0+source"


@cache
def data_hash() -> str:
    """SHA-256 over the tables, guests and scenarios that the model reads."""
    return _hash_files(data_dir(), _DATA_SUFFIXES)


@cache
def core_hash() -> str:
    """SHA-256 over the source of the jitted model."""
    return _hash_files(Path(__file__).parent / "core", {".py"})


_MODEL_CODE = ("core", "arch", "guests")
_MODEL_MODULES = ("features", "geometry", "machine", "nested_layouts", "personality", "scenario",
                  "simulate")  # fmt: skip
_MODEL_DATA = ("arch", "guests/include", "guests/l1", "guests/l2")


@cache
def model_hash() -> str:
    """SHA-256 over all code and data that counts can depend on: prices and charts are not in it."""
    package, data = Path(__file__).parent, data_dir()
    parts = [_hash_files(package / name, {".py"}) for name in _MODEL_CODE]
    parts += [_hash_files(data / name, _DATA_SUFFIXES) for name in _MODEL_DATA]
    files = [package / f"{name}.py" for name in _MODEL_MODULES]
    files += sorted(data.glob("*.csv"))
    texts = (path.read_bytes().replace(b"\r\n", b"\n") for path in files)
    parts += [hashlib.sha256(text).hexdigest() for text in texts]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of the workbench, Python and the libraries that decide a result."""
    ours = {"workbench": workbench_version(), "python": platform.python_version()}
    return ours | {package: _version(package) for package in PACKAGES}


def collect() -> dict[str, object]:
    """Provenance of a run that ends now."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "versions": dict(versions()),
        "data_hash": data_hash(),
        "core_hash": core_hash(),
        "created": now,
    }
