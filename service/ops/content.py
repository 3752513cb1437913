"""What a file holds, by its SHA-256, and how to see without reading it that it may have changed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

from service.errors import ModelError

# A file system's times are some milliseconds coarse: what is changed again at once may keep the time it had.
SETTLED_NS = 100_000_000
MOST_KNOWN = 64


class Stamp(NamedTuple):
    """What a file system says of a file's content without showing it. ``changed`` cannot be set back by anybody."""

    size: int
    modified: int  # ns
    changed: int  # ns
    inode: int

    @property
    def is_settled(self) -> bool:
        """Whether a file that still has this stamp has the same content."""
        return time.time_ns() - self.changed > SETTLED_NS


_known: dict[tuple[Path, Stamp], str] = {}


def stamp_of(file: Path) -> Stamp:
    """Raises ModelError where there is no such file."""
    try:
        found = file.stat()
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def sha256_of(file: Path) -> str:
    """In hexadecimal. A process reads a file once while it stays as it is. Raises ModelError where it cannot."""
    stamp = stamp_of(file)
    if (file, stamp) in _known:
        return _known[file, stamp]
    found = _read(file)
    if stamp.is_settled and stamp_of(file) == stamp:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[file, stamp] = found
    return found


def _read(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error
    return digest.hexdigest()
