"""All or nothing: a hidden folder to write a model in, and the rename that makes it one."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import ModelError, StartupError

# In a model that was fetched: the SHA-256 of the tar it came in.
FETCHED_FROM = "fetched.sha256"
_PREFIX = ".export."
_REPLACED = "replaced"


class WriteError(StartupError):
    """A model could not be written: no space, no permission."""


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A hidden folder within ``root``, gone at the end; those that killed exports left behind go first."""
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        _clear_away_dead(root)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}.", dir=root))
        # Held as long as we live: the kernel's own sign that this export is not a dead one.
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def require_space(folder: Path, parameters: int) -> None:
    """Raise WriteError where a model with that many bytes of parameters has no room."""
    # The rest, a program and some text, is less than 2 MiB.
    free, needed = shutil.disk_usage(folder).free, parameters + (2 << 20)
    if free < needed:
        raise WriteError(
            f"{folder.parent}: the model takes {needed >> 20} MiB, but {free >> 20} MiB are free on that disk"
        )


def refuse_name(name: str) -> None:
    """Raise ModelError for what is no name of a model."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ModelError(f"name {name!r}: accepted are letters, digits, '.', '_' and '-', a letter or digit first")


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raise ModelError where something is in the way of a new model and may not be replaced."""
    if not os.path.lexists(target):
        return
    if not force:
        raise ModelError(f"{target}: exists already; --force replaces it, --name chooses another name")
    if not _is_model(target):
        raise ModelError(
            f"{target}: exists, and is no serving model (no model.yml and serving_server in it); not replaced"
        )


def _is_model(target: Path) -> bool:
    # A fetched one need not have a model.yml: stock's converter writes none.
    described = (target / "model.yml").is_file() and (target / "serving_server").is_dir()
    return described or (target / FETCHED_FROM).is_file()


def publish(model: Path, target: Path, *, force: bool) -> None:
    """Give a finished model its name, in one step. A model that is replaced is put back if that fails."""
    _sync(model)
    with locked(target.parent):
        refuse_existing(target, force=force)
        if target.exists():
            _exchange(model, target)
        else:
            os.rename(model, target)
        sync_one(target.parent)


def _exchange(model: Path, target: Path) -> None:
    aside = model.parent / _REPLACED / target.name
    aside.parent.mkdir()
    os.rename(target, aside)
    try:
        os.rename(model, target)
    except BaseException:
        os.rename(aside, target)
        raise


def _clear_away_dead(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _put_back(folder, root)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _put_back(folder: Path, root: Path) -> None:
    """The model that an export had moved aside when it was killed."""
    for replaced in (folder / _REPLACED).glob("*"):
        if not os.path.lexists(root / replaced.name):
            os.rename(replaced, root / replaced.name)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Alone with a folder, among processes that ask in this way."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _sync(folder: Path) -> None:
    """To the disk before the rename: after a power cut a model is whole or not there."""
    for path in sorted(folder.rglob("*")):
        sync_one(path)
    sync_one(folder)


def sync_one(path: Path) -> None:
    """A file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
