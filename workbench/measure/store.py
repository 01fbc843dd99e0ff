"""A result as one directory: Parquet tables, a price table, and a manifest with checksums.

Nothing is ever half written: the directory is built beside its place, flushed, and renamed.  An
existing result is replaced only when asked, and stays until the new one is in its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ResultError, WorkbenchError
from ..frozen import FrozenMap
from ..prices import preset_from_table
from ..scenario import Scenario
from ..tables import parse_table
from .store_tables import parse_tables, raw_tables

if TYPE_CHECKING:
    from ..result import Result

FORMAT = "nested-hvm-workbench result"
VERSION = 1
MANIFEST = "result.json"
PRICES = "prices.csv"


def save(result: Result, place: Path, overwrite: bool) -> Path:
    """Write ``result`` to the directory ``place``; see :meth:`Result.save`."""
    place = Path(os.path.abspath(place))
    _check_place(place, overwrite)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".new", dir=place.parent))
        try:
            for name, data in _files(result).items():
                _write(build / name, data)
            build.chmod(0o755)
            _sync_directory(build)
            _move_into_place(build, place)
        finally:
            shutil.rmtree(build, ignore_errors=True)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        hint = "check the path, its permissions and the free space; nothing was changed"
        raise ResultError(f"{place}: cannot save: {reason}", hint) from problem
    return place


def _check_place(place: Path, overwrite: bool) -> None:
    if not os.path.lexists(place):
        return
    if not (place / MANIFEST).is_file() and not (place.is_dir() and not any(place.iterdir())):
        hint = "give another directory; only a result is ever replaced"
        raise ResultError(f"{place} exists and is not a result", hint)
    if (place / MANIFEST).is_file() and not overwrite:
        hint = "give another directory, or overwrite=True"
        raise ResultError(f"{place} already holds a result", hint)


def _move_into_place(build: Path, place: Path) -> None:
    if not place.exists():
        os.rename(build, place)
    else:
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".old", dir=place.parent))
        os.rename(place, aside / "result")
        try:
            os.rename(build, place)
        except OSError:
            os.rename(aside / "result", place)
            raise
        finally:
            if place.exists():
                shutil.rmtree(aside, ignore_errors=True)
    _sync_directory(place.parent)


def _files(result: Result) -> dict[str, bytes]:
    files = {}
    for name, table in raw_tables(result.raw).items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        files[name] = buffer.getvalue()
    files[PRICES] = result.preset.to_csv().encode()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "scenario": result.scenario.to_dict(),
        "status": result.status,
        "facts": dict(result.facts),
        "run_seconds": result.run_seconds,
        "provenance": dict(result.provenance),
        "prices": result.preset.name,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    manifest["checksum"] = _checksum(manifest)
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def _checksum(manifest: dict[str, Any]) -> str:
    kept = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    if os.name == "posix":  # other systems cannot open a directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(place: Path) -> dict[str, Any]:
    """Arguments of :class:`Result` from the directory ``place``; see :meth:`Result.load`."""
    manifest = _manifest(place)
    content = {name: _checked(place / name, digest) for name, digest in manifest["files"].items()}
    try:
        prices = parse_table(content.pop(PRICES).decode())
        return {
            "scenario": Scenario.restore(manifest["scenario"]),
            "preset": preset_from_table(manifest["prices"], prices, str(place / PRICES)),
            "status": manifest["status"],
            "raw": parse_tables(content, place),
            "facts": FrozenMap(manifest["facts"]),
            "run_seconds": manifest["run_seconds"],
            "provenance": FrozenMap(manifest["provenance"]),
        }
    except WorkbenchError as problem:
        raise ResultError(f"{place}: {problem.message}", problem.hint) from problem
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        hint = "save the result again with this version of the workbench"
        raise ResultError(f"{place}: {MANIFEST} lacks {problem}", hint) from problem


def _manifest(place: Path) -> dict[str, Any]:
    path = place / MANIFEST
    if not path.is_file():
        what = "is not a result: it has no " + MANIFEST if place.is_dir() else "does not exist"
        raise ResultError(f"{place} {what}", "give a directory that Result.save() wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ResultError(f"{path} is damaged: {problem}", _RECOVER) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ResultError(f"{path} is not of this workbench", "give a directory of Result.save()")
    version = manifest.get("version")
    if not isinstance(version, int) or version > VERSION:
        hint = "update the workbench to read it"
        raise ResultError(f"{place} has format version {version}, this one reads {VERSION}", hint)
    if manifest.get("checksum") != _checksum(manifest):
        raise ResultError(f"{path} is damaged: its checksum differs", _RECOVER)
    return manifest


_RECOVER = "restore the directory from a copy, or run the scenario again"


def _checked(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise ResultError(f"{path} is missing: {problem.strerror}", _RECOVER) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ResultError(f"{path} is damaged: its checksum differs", _RECOVER)
    return data
