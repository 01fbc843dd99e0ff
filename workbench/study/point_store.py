"""Finished runs kept by content: what was run is the name under which it is found again.

An entry's key is a hash of the scenario without its prices, of the model's code and data, and of
the guests' bytes; prices are applied on reading.  Only a run that depends on simulated time (see
:attr:`Result.depends_on_prices`) is kept for its prices alone.

An entry is plain files: ``KEY.json``, the manifest with checksums, and Parquet files named after
their content, which the manifest lists: the counts, and the timeline when there is one.  Files
appear whole, the manifest last; two processes that write the same entry do not disturb each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import provenance
from ..errors import ResultError, WorkbenchError
from ..frozen import FrozenMap
from ..guests import catalogue
from ..paths import cache_dir, write_atomically
from ..result import Result
from ..scenario import Scenario
from .entry_tables import read_entry, write_entry

FORMAT = "nested-hvm-workbench point"
VERSION = 1
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Entry:
    """One entry as ``workbench store list`` shows it; ``problem`` is empty for a sound one."""

    key: str
    scenario: dict[str, Any]
    status: str
    model_hash: str
    created: str
    size: int
    problem: str = ""

    @property
    def is_current(self) -> bool:
        """Can this version of the model still use it?"""
        return self.model_hash == provenance.model_hash()


def default_folder() -> Path:
    """Where finished points are kept unless another place is named."""
    return cache_dir() / "points"


@lru_cache(maxsize=256)
def _guest_digest(level: int, name: str, backend: str, stamp: tuple[int, int]) -> str:
    """What a program in a file of the user's consists of; ``stamp`` tells versions apart."""
    guest = catalogue.find(level, name, backend)
    image = guest.image()
    words = [(param.name, param.word) for param in guest.params]
    text = repr((image.entry, [(a, bytes(c)) for a, c in image.segments], words))
    return hashlib.sha256(text.encode()).hexdigest()


def _guest(level: int, name: str, backend: str) -> str:
    path = Path(name).expanduser()
    if catalogue.find(level, name, backend).name != name or not path.is_file():
        return name
    about = path.stat()
    return _guest_digest(level, name, backend, (about.st_mtime_ns, about.st_size))


def key_of(scenario: Scenario) -> str:
    """The key under which a run of this scenario is kept, whatever its prices [64 hex digits]."""
    guests = [_guest(1, scenario.l1, scenario.backend), _guest(2, scenario.l2, scenario.backend)]
    parts = [scenario.core_hash, provenance.model_hash(), *guests]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _priced_key(key: str, scenario: Scenario) -> str:
    prices = hashlib.sha256(scenario.preset.kernel_prices().tobytes()).hexdigest()
    return f"{key}-{prices[:16]}"


class PointStore:
    """A folder of finished points.

    Parameters
    ----------
    folder : path, optional
        Made when the first point is kept; by default :func:`default_folder`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder).expanduser() if folder is not None else default_folder()

    # ---------------------------------------------------------------- one point

    def get(self, scenario: Scenario, report: Callable[[str], None] | None = None) -> Result | None:
        """The finished run of a scenario at its prices, or None.

        ``report`` is told about a damaged entry; it counts as none.
        """
        key = key_of(scenario)
        for name in (key, _priced_key(key, scenario)):
            path = self._manifest(name)
            if not path.is_file():
                continue
            try:
                return self._read(path, scenario)
            except FileNotFoundError:  # tidied away in between
                continue
            except WorkbenchError as problem:
                if report is not None:
                    report(problem.message)
        return None

    def put(self, result: Result) -> str:
        """Keep a finished run; returns its name in the store."""
        name = key_of(result.scenario)
        if result.depends_on_prices:
            name = _priced_key(name, result.scenario)
        folder = self._manifest(name).parent
        files = {}
        try:
            for kind, data in write_entry(result.raw).items():
                digest = hashlib.sha256(data).hexdigest()
                path = folder / f"{name}.{kind}-{digest[:12]}.parquet"
                write_atomically(path, data)
                files[kind] = {"name": path.name, "sha256": digest}
            content = _sealed(
                {
                    "format": FORMAT, "version": VERSION, "key": name,
                    "scenario": result.scenario.to_dict(),
                    "status": result.status, "facts": dict(result.facts),
                    "run_seconds": result.run_seconds, "provenance": dict(result.provenance),
                    "model_hash": provenance.model_hash(), "files": files,
                }
            )  # fmt: skip
            write_atomically(self._manifest(name), content)
        except OSError as problem:
            reason = problem.strerror or str(problem)
            hint = "check the folder, its permissions and the free space, or use store=False"
            raise ResultError(f"{self.folder}: cannot keep a point: {reason}", hint) from problem
        return name

    def _manifest(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.json"

    def _read(self, path: Path, scenario: Scenario | None = None) -> Result:
        """The run of an entry; ``scenario``: at these prices, by default at those it was run with."""
        manifest = _opened(path)
        files = {}
        for kind, about in manifest["files"].items():
            place = path.parent / about["name"]
            try:
                data = place.read_bytes()
            except OSError as problem:
                raise ResultError(f"{place} is missing: {problem.strerror}", _AGAIN) from None
            if hashlib.sha256(data).hexdigest() != about["sha256"]:
                raise ResultError(f"{place} is damaged: its checksum differs", _AGAIN)
            files[kind] = data
        asked = scenario or Scenario.restore(manifest["scenario"])
        origin = manifest["provenance"] | {"scenario_hash": asked.hash}
        return Result(
            asked, asked.preset, manifest["status"], read_entry(files, path),
            FrozenMap(manifest["facts"]), manifest["run_seconds"], FrozenMap(origin),
        )  # fmt: skip

    # ---------------------------------------------------------------- one worker at a time

    @contextlib.contextmanager
    def claim(self, scenario: Scenario, stop: Callable[[], bool]) -> Iterator[None]:
        """Hold a point while it runs, so that another process waits for it instead of running it.

        The system releases the claim of a process that ends, however it ends.  Where the system
        has no such locks the point may be run twice, with the same outcome.
        """
        path = self._manifest(key_of(scenario)).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path, stop)
        try:
            yield
        finally:
            if handle is not None:
                path.unlink(missing_ok=True)
                os.close(handle)

    # ---------------------------------------------------------------- all points

    def entries(self, check: bool = False) -> Iterator[Entry]:
        """Every entry, damaged ones too; ``check`` reads all files, not the manifests alone."""
        for path in sorted(self.folder.glob("??/*.json")):
            try:
                manifest = _opened(path)
                if check:
                    self._read(path)
                size = path.stat().st_size
                for about in manifest["files"].values():
                    size += (path.parent / about["name"]).stat().st_size
                yield Entry(
                    path.stem, manifest["scenario"], manifest["status"], manifest["model_hash"],
                    str(manifest["provenance"].get("created", "")), size,
                )  # fmt: skip
            except (WorkbenchError, OSError) as problem:
                said = getattr(problem, "message", str(problem))
                yield Entry(path.stem, {}, "damaged", "", "", 0, said)

    def remove(self, name: str) -> None:
        """Delete one entry, the manifest first."""
        path = self._manifest(name)
        path.unlink(missing_ok=True)
        for file in path.parent.glob(f"{name}.*.parquet"):
            file.unlink(missing_ok=True)

    def leftovers(self, older_than_seconds: float = 3600.0) -> list[Path]:
        """Files that belong to no entry: of writers that were killed, or of replaced entries."""
        before = time.time() - older_than_seconds
        found = []
        for folder in sorted(self.folder.glob("??")):
            listed = {
                about["name"] for manifest in map(_manifest_or_none, folder.glob("*.json"))
                if manifest is not None for about in manifest["files"].values()
            }  # fmt: skip
            for file in sorted(folder.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    mine = file.suffix == ".json" and not file.name.startswith(".")
                    if not mine and file.name not in listed and file.stat().st_mtime < before:
                        found.append(file)
        return found


_AGAIN = "it is run again when it is needed; 'workbench store prune' removes it"


def _sealed(manifest: dict[str, Any]) -> bytes:
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(manifest | {"checksum": digest}, indent=1, sort_keys=True) + "\n").encode()


def _opened(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        digest = manifest.pop("checksum")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise ResultError(f"{path} is damaged: {problem}", _AGAIN) from None
    if digest != hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest():
        raise ResultError(f"{path} is damaged: its checksum differs", _AGAIN)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ResultError(f"{path} is of another version of the workbench", _AGAIN)
    return manifest


def _manifest_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return _opened(path)
    except (WorkbenchError, OSError):
        return None


def _lock(path: Path, stop: Callable[[], bool]) -> int | None:
    """A file descriptor that holds the lock; None without locks, or when ``stop`` says so."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while not stop():
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        os.close(handle)
    return None
