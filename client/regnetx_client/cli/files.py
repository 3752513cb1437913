"""Paths, folders and globs -> image files, in a stable order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from regnetx_client.cli.arguments import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def image_files(paths: Sequence[str]) -> list[str]:
    """Every image, once; raises UsageError for a path that gives none.

    A file that is named is taken whatever its extension; folders and globs give those of the image extensions.
    """
    return list(dict.fromkeys(file for path in paths for file in _files_of(path)))


def _files_of(path: str) -> list[str]:
    if os.path.isdir(path):
        return _some(_inside(path), f"no images in folder {path!r}")
    if os.path.exists(path):
        return [path]
    if glob.has_magic(path):
        return _some(_matching(path), f"no image matches {path!r}")
    raise UsageError(f"no file or folder {path!r}")


def _some(files: Iterator[str], otherwise: str) -> list[str]:
    found = list(files)
    if not found:
        raise UsageError(f"{otherwise} (looked for {' '.join(EXTENSIONS)})")
    return found


def _inside(folder: str) -> Iterator[str]:
    """All the way down; hidden files and folders are not images anyone put there to be seen."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if _is_image(name))


def _matching(pattern: str) -> Iterator[str]:
    for path in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(path):
            yield from _inside(path)
        elif _is_image(os.path.basename(path)):
            yield path


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS
