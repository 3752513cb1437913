"""The name of an official model -> its file in the cache; fetched once, resumed when cut, verified before it counts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.config_source import is_http_address
from service.errors import ModelError, StartupError
from serving_models import archive
from serving_models.ranged_http import Answer, CutError, Here, MissingError, NetworkError, request_rest
from serving_models.variants import OFFICIAL_ADDRESS, VARIANTS
from serving_models.weights import read_weights

ADDRESS_VARIABLE = "REGNETX_SERVING_MODELS_URL"
PATIENCE = 3.0  # seconds until a server must have answered, and until each further piece must have come

# Called with a file's name, the bytes that are here, and the bytes in all where the server tells.
Progress = Callable[[str, int, int | None], None]


class DownloadError(StartupError):
    """An official model could not be fetched; one sentence for a person."""


def official_name(text: str) -> str | None:
    """The official model that a text names, in whichever case."""
    return next((name for name in VARIANTS if name.lower() == text.lower()), None)


def fetch_official(name: str, progress: Progress, *, patience: float = PATIENCE) -> Path:
    """The inference model of an official variant, or its weights where the server has no such file.

    Raises DownloadError where neither can be fetched.
    """
    missing = []
    for url in (VARIANTS[name].inference_url, VARIANTS[name].weights_url):
        try:
            return fetch(_address(url), progress, patience=patience)
        except MissingError as error:
            missing.append(str(error))
    raise DownloadError(f"{name}: the server has neither {missing[0]} nor {missing[1]}")


def fetch(url: str, progress: Progress, *, patience: float = PATIENCE) -> Path:
    """The file behind an address: from the cache, else from there. Raises DownloadError, MissingError."""
    path = cache_folder() / url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path):
        if not _is_whole(path):
            _download(url, path, progress, patience=patience)
    return path


def cache_folder() -> Path:
    """``~/.cache/regnetx-serving``; ``XDG_CACHE_HOME`` moves it. Raises DownloadError where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "regnetx-serving"
    except RuntimeError:
        raise DownloadError("there is no home folder for a cache, XDG_CACHE_HOME can name another") from None


def _address(url: str) -> str:
    base = os.environ.get(ADDRESS_VARIABLE) or OFFICIAL_ADDRESS
    if not is_http_address(base):
        raise DownloadError(f"{ADDRESS_VARIABLE}={base}: accepted is an address that begins with http:// or https://")
    return url.replace(OFFICIAL_ADDRESS, base.rstrip("/"))


def _download(url: str, path: Path, progress: Progress, *, patience: float) -> None:
    part = path.with_name(path.name + ".part")
    try:
        answer = complete(url, part, progress, patience=patience)
    except (NetworkError, CutError) as error:
        raise DownloadError(f"{path.name} could not be downloaded: {error}") from None
    try:
        _verify(part, answer)
    except ModelError as error:
        part.unlink()
        raise DownloadError(f"{url}: what came is damaged, nothing was kept: {error}") from None
    _record(path).write_text(f"{digest(part, 'sha256')}  {path.name}\n", encoding="ascii")
    os.replace(part, path)
    _version_file(part).unlink(missing_ok=True)


def complete(url: str, part: Path, progress: Progress, *, patience: float, token: str | None = None) -> Answer:
    """Fetch until the file is whole: an answer that was cut is gone on with, as long as each brings something.

    Raises MissingError, NetworkError, CutError (what came is then kept for the next try), and ModelError for a file
    that is larger than any model.
    """
    while True:
        before = _here(part)
        answer = request_rest(url, before, patience, token)
        try:
            _append(part, answer, progress)
        except CutError:
            if _here(part).size <= before.size:
                raise
        else:
            return answer


def _append(part: Path, answer: Answer, progress: Progress) -> None:
    """Write an answer's bytes where they belong. Raises CutError where it ends early."""
    _version_file(part).write_text(answer.version or "", encoding="utf-8")
    with part.open("r+b" if answer.offset else "wb") as stream:
        stream.seek(answer.offset)
        stream.truncate()
        for chunk in answer.chunks:
            _refuse_endless(part, max(answer.size or 0, stream.tell() + len(chunk)))
            stream.write(chunk)
            progress(part.stem, stream.tell(), answer.size)
        end = stream.tell()
    if answer.size is not None and end < answer.size:
        raise CutError(f"the connection ended at byte {end} of {answer.size}")


def _refuse_endless(part: Path, size: int) -> None:
    if size > archive.MAX_BYTES:
        raise ModelError(f"{part.stem}: more than {archive.MAX_BYTES >> 30} GiB; a model has less")


def _verify(part: Path, answer: Answer) -> None:
    """Size and MD5 as the server told them, and a content that can be read. Raises ModelError."""
    size = part.stat().st_size
    if answer.size is not None and size != answer.size:
        raise ModelError(f"{size} bytes, where the server announced {answer.size}")
    # NOTE the official server's ETag is the MD5 of the file, except for those that were uploaded in pieces.
    md5 = re.fullmatch(r'"([0-9a-fA-F]{32})"', answer.version or "")
    if md5 and digest(part, "md5") != md5[1].lower():
        raise ModelError(f"MD5 {digest(part, 'md5')}, where the server announced {md5[1].lower()}")
    if part.stem.endswith(".tar"):
        archive.check(part)
    else:
        read_weights(part)


def _is_whole(path: Path) -> bool:
    """Whether the cache's file is the one that was verified when it came."""
    with suppress(OSError, UnicodeDecodeError):
        return _record(path).read_text(encoding="ascii").split()[:1] == [digest(path, "sha256")]
    return False


def _here(part: Path) -> Here:
    try:
        return Here(part.stat().st_size, _version_file(part).read_text(encoding="utf-8") or None)
    except (OSError, UnicodeDecodeError):
        return Here()


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def digest(path: Path, algorithm: str) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Two processes that want the same file: one fetches, the other waits and finds it."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
