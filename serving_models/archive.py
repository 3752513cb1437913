"""A tar of an inference model -> a directory of its files; nothing is written outside of it."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from service.errors import ModelError

# The largest official model takes 0.5 GB.
MAX_BYTES = 4 << 30
MAX_MEMBERS = 2000


def extract(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a tar, plain or compressed.

    Raises ModelError for a damaged tar, a member that leaves the folder, a link or device, and too much content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            for member in _members(archive, tar):
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ModelError(f"{archive}: damaged or cut short: {str(error).splitlines()[0]}") from None
    except OSError as error:
        if error.errno is None:  # of gzip and bz2, not of the disk
            raise ModelError(f"{archive}: damaged or cut short: {error}") from None
        raise


def _members(archive: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members: list[tarfile.TarInfo] = []
    size = 0
    for member in tar:
        _refuse_unsafe(archive, member)
        members.append(member)
        size += member.size
        if size > MAX_BYTES or len(members) > MAX_MEMBERS:
            raise ModelError(
                f"{archive}: more than {MAX_BYTES >> 30} GiB or {MAX_MEMBERS} files; an inference model has less"
            )
    return members


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{archive}: the member {member.name!r} leaves the archive's own folder; nothing was unpacked")
    if not (member.isfile() or member.isdir()):
        raise ModelError(f"{archive}: the member {member.name!r} is a link or a device; accepted are files and folders")
