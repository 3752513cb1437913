"""A name, or nothing -> the path of a model that can be served now; without Paddle where it is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ModelError
from service.ops.model import load_verified
from serving_models.download import PATIENCE, DownloadError, Progress, fetch_official, official_name
from serving_models.variants import VARIANTS

if TYPE_CHECKING:
    from serving_models.export import Options

DEFAULT = "RegNetX_200MF"
DIGITS = "digits"
_BUNDLED = Path(__file__).parent / "bundled" / "digits"
# Where there is a model to serve already, a start does not wait long for a better one.
_SHORT_PATIENCE = 1.0

Report = Callable[[str], None]


def prepare(name: str | None, root: Path, *, report: Report, progress: Progress, tell: Report) -> Path:
    """The ``serving_server`` folder of a model to serve: found, or else exported into ``root``.

    ``report`` hears what is being done, ``tell`` the one line a person must read. Raises ModelError for a name that is
    no model and for a model whose files are not those that were exported, DownloadError and WriteError where a named
    model cannot be had.
    """
    if name is not None:
        return _named(name, root, report, progress)
    default = root / DEFAULT.lower()
    if default.exists():
        return _server(default)
    digits = root / DIGITS
    try:
        report(f"looking for {DEFAULT}")
        fetch_official(DEFAULT, progress, patience=_SHORT_PATIENCE if digits.exists() else PATIENCE)
        return _export(DEFAULT, _options(root, DEFAULT.lower()), report, progress)
    # ModelError: what a server hands out under that name need not be what we can export.
    except (DownloadError, ModelError, OSError) as error:
        tell(
            f"serving the bundled model of handwritten digits, because {error}; for ImageNet, with a network: "
            f"python -m serving_models export {DEFAULT}"
        )
    return _server(digits) if digits.exists() else _export_digits(root, report, progress)


def _named(name: str, root: Path, report: Report, progress: Progress) -> Path:
    for folder in (Path(name), root / name, root / name.lower()):
        if folder.exists():
            return _server(folder)
    official = official_name(name)
    if official is not None:
        return _export(official, _options(root, official.lower()), report, progress)
    if name == DIGITS:
        return _export_digits(root, report, progress)
    raise ModelError(
        f"{name!r}: no model of that name in {root}, no path and no official model; accepted are a folder that "
        f"python -m serving_models export wrote, its name, {DIGITS}, and {', '.join(VARIANTS)}"
    )


def _server(folder: Path) -> Path:
    return load_verified(folder).program.parent


def _export_digits(root: Path, report: Report, progress: Progress) -> Path:
    weights = _BUNDLED / "RegNetX_200MF_digits.pdparams"
    return _export(str(weights), _options(root, DIGITS, labels=_BUNDLED / "digits_labels.txt"), report, progress)


def _options(root: Path, name: str, labels: Path | None = None) -> Options:
    # Late, because it imports Paddle, which takes longer than everything else here.
    from serving_models.export import Options

    return Options(root, name=name, labels=labels)


def _export(source: str, options: Options, report: Report, progress: Progress) -> Path:
    from serving_models.export import export

    try:
        return _server(export(source, options, report=report, progress=progress).folder)
    except ModelError:
        # Another start was faster: its model is as good.
        if not options.name or not (options.root / options.name / "model.yml").is_file():
            raise
        return _server(options.root / options.name)
