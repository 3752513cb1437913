"""An address and a SHA-256 -> a serving model on this disk: verified before it is unpacked, whole or not there."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.config_source import is_http_address
from service.errors import ModelError
from service.ops.model import SERVER_FOLDER, load_model, load_verified
from serving_models import archive
from serving_models.download import DownloadError, Progress, alone, complete, digest
from serving_models.ranged_http import CutError, MissingError, NetworkError, shown
from serving_models.workspace import FETCHED_FROM, publish, refuse_existing, refuse_name, workspace

PATIENCE = 30.0  # seconds; there is nothing to fall back on
_UNFINISHED = ".fetch"
_SUFFIX = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$")


@dataclass(frozen=True)
class Wanted:
    """A tar of a serving model, plain or compressed, and the folder ``root/name`` that it becomes.

    ``sha256`` in hex is that of the tar. ``token`` is a bearer token for the server of ``url``. ``name`` is otherwise
    that of the file.
    """

    url: str
    sha256: str
    root: Path
    name: str | None = None
    token: str | None = None
    force: bool = False


def fetch_model(wanted: Wanted, progress: Progress, *, patience: float = PATIENCE) -> Path:
    """The ``serving_server`` folder of the model; without a request where it is there, from that very tar.

    Raises ModelError for what is refused: an option, another SHA-256, a tar that is no serving model, a name that is
    taken; DownloadError, and then what came is kept for the next try; WriteError, and OSError of the disk.
    """
    target = wanted.root / _name(wanted)
    unfinished = wanted.root / _UNFINISHED / target.name
    unfinished.mkdir(parents=True, exist_ok=True)
    with alone(unfinished):
        if not _is_there(wanted, target):
            tar = unfinished / wanted.sha256.lower() / f"{target.name}.part"
            _download(wanted, tar, progress, patience)
            _unpack(wanted, tar, target)
        shutil.rmtree(unfinished, ignore_errors=True)
    return load_model(target).program.parent


def _name(wanted: Wanted) -> str:
    """The model's name, when everything a person typed has been looked at."""
    if not is_http_address(wanted.url):
        raise ModelError(f"{shown(wanted.url)!r}: accepted is an address that begins with http:// or https://")
    parts = urlsplit(wanted.url)
    if parts.username is not None:
        raise ModelError(f"the address of {parts.hostname} holds a user's name; accepted is a token beside the address")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted.sha256):
        raise ModelError(f"--sha256 {wanted.sha256!r}: accepted are the 64 hex digits that sha256sum prints")
    if wanted.token is not None and not re.fullmatch(r"[!-~]+", wanted.token):
        raise ModelError("the token is empty or holds a space or other characters that no HTTP header can hold")
    name = wanted.name or _SUFFIX.sub("", unquote(parts.path.rpartition("/")[2]))
    refuse_name(name)
    return name


def _is_there(wanted: Wanted, target: Path) -> bool:
    """Whether the model of that very tar is there, unspoiled. Raises ModelError where something else is."""
    if _fetched_from(target) == wanted.sha256.lower():
        try:
            load_verified(target)
        except ModelError:
            return False  # of ours and spoiled since: fetched again
        return True
    refuse_existing(target, force=wanted.force)
    return False


def _fetched_from(target: Path) -> str | None:
    try:
        return (target / FETCHED_FROM).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _download(wanted: Wanted, tar: Path, progress: Progress, patience: float) -> None:
    """The tar, whole and with the SHA-256 that was asked for; what came of another one is not kept."""
    tar.parent.mkdir(exist_ok=True)
    try:
        complete(wanted.url, tar, progress, patience=patience, token=wanted.token)
        found = digest(tar, "sha256")
        if found != wanted.sha256.lower():
            raise ModelError(f"{shown(wanted.url)}: SHA-256 is {found}, not {wanted.sha256.lower()}; nothing was kept")
    except (MissingError, NetworkError, CutError) as error:
        raise DownloadError(f"{tar.stem} could not be downloaded: {error}") from None
    except ModelError:
        shutil.rmtree(tar.parent)
        raise


def _unpack(wanted: Wanted, tar: Path, target: Path) -> None:
    with workspace(wanted.root) as folder:
        try:
            archive.extract(tar, folder / "unpacked")
            model = _model_in(folder / "unpacked")
            load_verified(model)
        except ModelError as error:
            # A person knows the address, not where its tar and its files are at the moment.
            text = str(error).replace(str(folder / "unpacked"), shown(wanted.url))
            raise ModelError(text.replace(str(tar), shown(wanted.url))) from None
        (model / FETCHED_FROM).write_text(f"{wanted.sha256.lower()}\n", encoding="ascii")
        publish(model, target, force=wanted.force or _fetched_from(target) == wanted.sha256.lower())


def _model_in(folder: Path) -> Path:
    """The folder with ``serving_server`` in it: the tar's own top, or its only folder."""
    if (folder / SERVER_FOLDER).is_dir():
        return folder
    folders = [path for path in folder.iterdir() if path.is_dir()]
    if len(folders) == 1:
        return folders[0]
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise ModelError(f"{folder}: {found} in it; accepted is a tar of a serving model or of the one folder it is in")
