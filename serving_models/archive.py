"""A tar of an inference model -> a directory of its files; nothing is written outside of it."""

from __future__ import annotations

import errno
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from service.errors import ModelError, short, shown

# The largest official model takes 0.5 GB.
MAX_BYTES = 4 << 30
MAX_MEMBERS = 2000
# A file where another member needs a folder, or the other way round, and names that no file system takes
_OF_NAMES = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def extract(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a tar, plain or compressed.

    Raises ModelError for a damaged tar, a member that leaves the folder, a link or device, and too much content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _damage_named(archive), _open(archive) as tar:
        for member in _members(archive, tar):
            _write(tar, member, folder / member.name)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> None:
    """The content alone: owner, mode and times of a stranger's tar are of no use (and ``filter`` is not in 3.11.2)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is not None:
        with content, file.open("wb") as out:
            shutil.copyfileobj(content, out)


def check(archive: Path) -> None:
    """Read a tar to its end, unpacking nothing. Raises ModelError as ``extract`` does, and for one without files."""
    with _damage_named(archive), _open(archive) as tar:
        if not _members(archive, tar):
            raise ModelError(f"{archive}: an empty tar")


def _open(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive)
    except tarfile.ReadError:
        raise ModelError(f"{archive}: not a tar, plain or compressed, or damaged where it begins") from None
    except MemoryError:  # a file of xz says how large a dictionary it needs, up to 4 GiB
        raise ModelError(
            f"{archive}: damaged, or compressed so that unpacking takes more memory than there is"
        ) from None


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise ModelError(f"{archive}: damaged or cut short: {short(str(error).splitlines()[0])}") from None
    except OSError as error:
        if error.errno is None:  # of gzip and bz2, not of the disk
            raise ModelError(f"{archive}: damaged or cut short: {short(str(error))}") from None
        if error.errno in _OF_NAMES:
            raise ModelError(f"{archive}: a member cannot be unpacked: {error.strerror}") from None
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
    _refuse_open_end(archive, tar)
    return members


def _refuse_open_end(archive: Path, tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, and the end of a file that is cut between two members, for the archive's end."""
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ModelError(f"{archive}: damaged or cut short: no end of the archive at byte {tar.offset}")


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(
            f"{archive}: the member {shown(member.name)} leaves the archive's own folder; nothing was unpacked"
        )
    if not (member.isfile() or member.isdir()):
        raise ModelError(
            f"{archive}: the member {shown(member.name)} is a link or a device; accepted are files and folders"
        )
