"""What a person names, a path or an official model -> the weights of a RegNetX and all that is known of them."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from service.errors import ModelError
from serving_models import archive, inference_model
from serving_models.download import Progress, fetch_official, official_name
from serving_models.inference_model import INFERENCE_YML, InferenceModel
from serving_models.inference_yml import Feeding, read_inference_yml
from serving_models.variants import VARIANTS
from serving_models.weights import Weights, classes_of, read_weights, variant_of

ACCEPTED = (
    "accepted are a folder or tar of a PaddleClas inference model, PaddleClas weights (RegNetX_*.pdparams), "
    f"and the names of the official models: {', '.join(VARIANTS)}"
)
_PARTS_OF_A_MODEL = re.compile(r".*\.(pdmodel|pdiparams|json)|__model__|__params__")


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and its weights. ``model`` is None where they came without a program."""

    kind: str  # official, inference_model or weights
    path: Path
    sha256: str
    architecture: str
    classes: int
    weights: Weights
    feeding: Feeding
    model: InferenceModel | None = None

    @property
    def declared(self) -> tuple[int, int] | None:
        """Height and width that the program declares for its input; None where it leaves one open."""
        height, width = self.model.input_shape[2:] if self.model else (-1, -1)
        return (height, width) if height > 0 and width > 0 else None


def open_source(text: str, unpacked: Path, progress: Progress) -> Source:
    """Read a source; an archive's files go to the folder ``unpacked``, which must live as long as the source is used.

    Raises ModelError for what is no RegNetX, with what was found and what is accepted; DownloadError.
    """
    path = Path(os.path.expanduser(text))
    if not path.exists():
        official = official_name(text)
        if official is None:
            raise ModelError(f"{text!r}: no such file, folder or official model; {ACCEPTED}")
        return _read(fetch_official(official, progress), unpacked, official=True)
    return _read(path, unpacked, official=False)


def _read(path: Path, unpacked: Path, *, official: bool) -> Source:
    if path.is_dir():
        return _from_inference_model(path, path, official=False)
    if not path.is_file():
        raise ModelError(f"{path}: not a regular file; {ACCEPTED}")
    if _PARTS_OF_A_MODEL.fullmatch(path.name):
        raise ModelError(f"{path}: one file of an inference model; name its folder, {path.resolve().parent}")
    if path.name.endswith((".tar", ".tar.gz", ".tgz")) or tarfile.is_tarfile(path):
        if path.stat().st_size == 0:
            raise ModelError(f"{path}: an empty file; {ACCEPTED}")
        return _from_archive(path, unpacked, official=official)
    return _from_weights(path, official=official)


def _from_weights(path: Path, *, official: bool) -> Source:
    try:
        weights = read_weights(path)
    except ModelError as error:
        if path.suffix == ".pdparams":
            raise
        raise ModelError(f"{error}; {ACCEPTED}") from None
    beside = path.parent / INFERENCE_YML
    return Source(
        kind="official" if official else "weights",
        path=path,
        sha256=file_sha256(path),
        architecture=variant_of(weights, path),
        classes=classes_of(weights, path),
        weights=weights,
        feeding=read_inference_yml(beside) if beside.is_file() else Feeding(),
    )


def _from_archive(path: Path, unpacked: Path, *, official: bool) -> Source:
    archive.extract(path, unpacked)
    try:
        return _from_inference_model(unpacked, path, official=official)
    except ModelError as error:
        # A person knows the archive, not where we unpacked it.
        raise ModelError(str(error).replace(str(unpacked), str(path))) from None


def _from_inference_model(folder: Path, path: Path, *, official: bool) -> Source:
    files = inference_model.find(folder)
    model = inference_model.load(files)
    yml = files.inference_yml
    return Source(
        kind="official" if official else "inference_model",
        path=path,
        sha256=file_sha256(path if path.is_file() else files.params or files.program),
        architecture=variant_of(model.weights, path),
        classes=classes_of(model.weights, path),
        weights=model.weights,
        feeding=read_inference_yml(yml) if yml else Feeding(),
        model=model,
    )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
