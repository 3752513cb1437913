"""What TensorRT builds for a model on a GPU, which takes minutes, kept in a folder for the next start.

One folder a set of circumstances, with a manifest: what it was made for, and the SHA-256 of its files. The library that
reads and writes them only ever sees a folder of its own, so no process finds what another has half written, or what a
library did not accept and built anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, TypeVar

from service.config import Config
from service.engines import VENDORS
from service.engines.gpu import Gpu, driver_version
from service.errors import StartupError
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")

Opened = TypeVar("Opened")

FOLDER = "engine_cache"
MANIFEST = "manifest.json"
TIMINGS = ".timing"  # of single kernels; good for other engines on the same GPU too
UNFINISHED = ".unfinished-"
ENTRY = re.compile(r"[0-9a-f]{16}")
KEPT = 8  # the least recently used of more go
LOCK_SECONDS = 1200
POLL_SECONDS = 0.2
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of a manifest that is none
STALE_SECONDS = 24 * 3600  # no build takes so long: its process was killed


def user_cache() -> Path | None:
    """``$XDG_CACHE_HOME/regnetx-serving``; None for a user without a home."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "regnetx-serving"
    return None


def places(config: Config, model: Model) -> list[Path]:
    """Where to look, and to write where that can be done.

    The folder of ``native.engine_cache``; without it, beside the model and then in the user's cache.
    """
    if config.native.engine_cache:
        return [Path(config.native.engine_cache)]
    users = user_cache()
    return [model.program.parent.parent / FOLDER, *([users / FOLDER] if users else [])]


def made_for(engine: str, gpu: Gpu, files: Sequence[Path], asked: dict[str, Any], *, tensorrt: str) -> dict[str, Any]:
    """All that a built engine depends on; JSON.

    ``files``: those that the engine is built from, whole; ``asked``: settings, shapes and precision; ``tensorrt``: its
    version.
    """
    on = {"engine": engine, "gpu": asdict(gpu), "driver": driver_version(), "tensorrt": tensorrt}
    return {
        "machine": on | {"versions": dict(_installed(engine))},
        "asked": asked,
        "files": {file.name: _sha256(file) for file in files},
    }


def cached(
    folders: Sequence[Path], circumstances: dict[str, Any], open_with: Callable[[Path | None], Opened]
) -> Opened:
    """``open_with(folder)``, which finds in ``folder`` what it left there under the same ``circumstances`` before.

    Called with None where nothing can be kept. Raises what ``open_with`` raises when it has to build.
    """
    name = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()[:16]
    tried = {}
    for folder in folders:
        tried[folder] = _identity(folder / name)
        opened = _load(folder / name, circumstances, open_with)
        if opened is not None:
            return opened
    place = next(filter(_can_be_written, folders), None)
    if place is None:
        log.info("the engine for TensorRT is built and kept nowhere: %s cannot be written", _in_words(folders))
        return open_with(None)
    entry = place / name
    with _alone(place / f"{name}.lock"):
        # Another process may have built it meanwhile.
        opened = _load(entry, circumstances, open_with) if _identity(entry) != tried[place] else None
        return _build(entry, circumstances, open_with) if opened is None else opened


def _identity(entry: Path) -> tuple[int, int] | None:
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _load(entry: Path, circumstances: dict[str, Any], open_with: Callable[[Path | None], Opened]) -> Opened | None:
    if not entry.is_dir():
        return None
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(_unfinished(entry.parent if _can_be_written(entry.parent) else None))
            _copy(entry, copy, circumstances)
            opened = open_with(copy)
        except (*UNREADABLE, StartupError) as error:
            log.warning("%s is ignored and will be built again: %s", entry, error)
            return None
        _refresh(entry, copy, circumstances)
        return opened


def _build(entry: Path, circumstances: dict[str, Any], open_with: Callable[[Path | None], Opened]) -> Opened:
    log.info("an engine for TensorRT is built, which takes minutes, and kept in %s", entry)
    began = time.monotonic()
    try:
        with _unfinished(entry.parent) as folder:
            _copy_timings(entry.parent, folder, circumstances["machine"])
            opened = open_with(folder)
            try:
                _keep(folder, entry, circumstances)
            except OSError as error:
                log.warning("the engine that was built cannot be kept in %s: %s", entry, error)
            else:
                log.info("built in %.1f s", time.monotonic() - began)
            return opened
    except OSError as error:  # of the place, as when a disk is full; what is wrong with an engine is a StartupError
        log.warning("the engine is built without %s: %s", entry, error)
    return open_with(None)


def _copy(entry: Path, copy: Path, circumstances: dict[str, Any]) -> None:
    """Raises ValueError, or what comes of a manifest that is none, where the entry is not what was kept."""
    for name, sha256 in _manifest(entry, circumstances).items():
        shutil.copyfile(entry / name, copy / name)
        if _sha256(copy / name) != sha256:
            raise ValueError(f"{name} is not the file that was kept")


def _manifest(entry: Path, circumstances: dict[str, Any]) -> dict[str, str]:
    """The SHA-256 of each file."""
    found = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    if found["made_for"] != circumstances:
        raise ValueError("it was made for something else")
    if not found["sha256"] or any(Path(name).name != name for name in found["sha256"]):
        raise ValueError(f"{MANIFEST} names no files")
    return dict(found["sha256"])


def _refresh(entry: Path, copy: Path, circumstances: dict[str, Any]) -> None:
    """Note the use, and keep what the library has built where it did not accept what was kept."""
    try:
        kept = _manifest(entry, circumstances).items()
        if any(_sha256(copy / name) != sha256 for name, sha256 in kept if not name.endswith(TIMINGS)):
            log.warning("%s was not accepted and has been built again", entry)
            _keep(copy, entry, circumstances)
        else:
            os.utime(entry / MANIFEST)
    except UNREADABLE:
        return  # read-only, or replaced meanwhile


def _keep(folder: Path, entry: Path, circumstances: dict[str, Any]) -> None:
    """Make ``folder`` the entry, whole or not at all."""
    files = [file for file in folder.iterdir() if file.is_file()]
    if all(file.name.endswith(TIMINGS) for file in files):
        log.warning("TensorRT has built nothing for this model: another part of the library computes all of it")
        return
    manifest = {"made_for": circumstances, "sha256": {file.name: _sha256(file) for file in files}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in (*files, folder / MANIFEST):
        file.chmod(0o644)  # another user may serve the model
    folder.chmod(0o755)
    if entry.exists():
        with _unfinished(entry.parent) as old:
            entry.rename(old / entry.name)
    folder.rename(entry)
    _prune(entry.parent)


def _prune(place: Path) -> None:
    """Only what was written here: entries beyond the last, and what a killed process has left."""
    for entry in _entries(place)[KEPT:]:
        shutil.rmtree(entry, ignore_errors=True)
        (place / f"{entry.name}.lock").unlink(missing_ok=True)
    for left in place.glob(f"{UNFINISHED}*"):
        if _is_stale(left):
            shutil.rmtree(left, ignore_errors=True)
    for lock in place.glob("*.lock"):  # of a build that failed
        if ENTRY.fullmatch(lock.stem) and not lock.with_suffix("").exists() and _is_stale(lock):
            lock.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def _entries(place: Path) -> list[Path]:
    """The last used first."""
    used = {}
    for manifest in place.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(OSError):
            if ENTRY.fullmatch(manifest.parent.name):
                used[manifest.parent] = manifest.stat().st_mtime
    return sorted(used, key=lambda entry: used[entry], reverse=True)


def _copy_timings(place: Path, folder: Path, machine: dict[str, Any]) -> None:
    """What was measured for other engines on the same machine need not be measured again."""
    for entry in _entries(place):
        with contextlib.suppress(*UNREADABLE):
            found = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
            timings = [name for name in found["sha256"] if name == Path(name).name and name.endswith(TIMINGS)]
            if found["made_for"]["machine"] == machine and timings:
                for name in timings:
                    _copy_whole(entry / name, folder / name, found["sha256"][name])
                return


def _copy_whole(file: Path, copy: Path, sha256: str) -> None:
    """Nothing where it is another file, or the disk is full."""
    try:
        shutil.copyfile(file, copy)
        whole = _sha256(copy) == sha256
    except OSError:
        whole = False
    if not whole:
        copy.unlink(missing_ok=True)


@contextlib.contextmanager
def _unfinished(place: Path | None) -> Iterator[Path]:
    """A folder of this process, gone at the end unless it became an entry. None: where temporary files are."""
    folder = Path(tempfile.mkdtemp(dir=place, prefix=UNFINISHED))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock when its process ends, however it ends."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no space for it: several may build, the last is kept
            _wait_for(stack.enter_context(file.open("ab")))
        yield


def _wait_for(lock: IO[bytes]) -> None:
    give_up = time.monotonic() + LOCK_SECONDS
    told = False
    while time.monotonic() < give_up:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.info("waiting for another process that builds the engine for TensorRT")
            told = True
            time.sleep(POLL_SECONDS)
        except OSError:
            return  # a file system without locks: several may build, the last is kept
        else:
            return
    log.warning("another process has been building for %.0f s; this one builds too", LOCK_SECONDS)


def _can_be_written(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _unfinished(place):
            return True
    except OSError:
        return False


def _installed(engine: str) -> Iterator[tuple[str, str]]:
    for package in VENDORS[engine].packages:
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _in_words(folders: Sequence[Path]) -> str:
    return " and ".join(map(str, folders)) or "no folder"
