"""``python -m serving_models quantize``: its options and the table that it ends with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from service.errors import ModelError
from serving_models.numbers import real, whole

if TYPE_CHECKING:
    from serving_models.agreement import Compared
    from serving_models.quantize import Quantised

METHODS = ("minmax", "entropy", "percentile")
MOST_IMAGES = 10**6
FEW = 100  # images: of fewer, one that is answered otherwise is more than 1 %
NAMED_AT_MOST = 5

Command = Callable[[argparse.Namespace], Any]
Report = Callable[[str], None]


def add_quantize(commands: Any, *, command: Command, root: Path) -> None:
    """Add it to the subparsers of the command line; ``root``: where models are if nothing else is said."""
    quantize = commands.add_parser(
        "quantize",
        help="make the int8 form of a serving model with your own images",
        description="Make the int8 form of a serving model, calibrated with some of your images, and compare its "
        "answers with those of float32 on others. Served with precision: int8.",
    )
    quantize.set_defaults(command=command)
    quantize.add_argument("model", metavar="MODEL", help="a serving model's folder or name")
    quantize.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="images as the service will get them"
    )
    quantize.add_argument(
        "--limit",
        type=whole(2, MOST_IMAGES),
        default=500,
        metavar="N",
        help="images that are used, of all in DIR; default: 500",
    )
    quantize.add_argument(
        "--holdout", type=_share, default=0.5, metavar="SHARE", help="of them: not calibrated with; default: 0.5"
    )
    quantize.add_argument("--method", choices=METHODS, default="minmax", help="of calibration; default: minmax")
    quantize.add_argument(
        "--per-channel",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a scale for each channel of the weights (the default), or one for a layer",
    )
    quantize.add_argument(
        "--least-agreement",
        type=_share_or_all,
        default=0.99,
        metavar="SHARE",
        help="of images with the same best class as in float32; below it nothing is written; default: 0.99",
    )
    quantize.add_argument("--force", action="store_true", help="write it all the same")
    quantize.add_argument(
        "--from", dest="root", type=Path, default=root, metavar="FOLDER", help="where serving models are"
    )


def require_images(folder: Path) -> None:
    """Before a model is fetched or made. Raises ModelError where there are no images to be."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise ModelError(f"{folder}: {found}; accepted with --images is a folder of images")


def quantize_command(options: argparse.Namespace, model_config: Path, *, report: Report, tell: Report) -> Table:
    """Quantise; what to print. Raises as ``quantize.quantise``. ``tell`` hears a line for each image left out."""
    from serving_models.quantize import Options, quantise

    chosen = Options(
        images=options.images,
        limit=options.limit,
        holdout=options.holdout,
        method=options.method,
        per_channel=options.per_channel,
        least_agreement=options.least_agreement,
        force=options.force,
    )
    quantised = quantise(model_config, chosen, report=report)
    for line in (*_left_out(quantised), *quantised.not_compared):
        tell(line)
    return _table(quantised, chosen.method, chosen.per_channel)


def _left_out(quantised: Quantised) -> list[str]:
    unreadable = quantised.sample.unreadable
    lines = [f"left out: {path}: {reason}" for path, reason in unreadable[:NAMED_AT_MOST]]
    more = len(unreadable) - NAMED_AT_MOST
    return [*lines, f"left out: {more} more"] if more > 0 else lines


def _table(quantised: Quantised, method: str, per_channel: bool) -> Table:
    table = Table(title=f"{quantised.model.name} in int8", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(quantised, method, per_channel):
        table.add_row(label, Text(value))
    return table


def _rows(quantised: Quantised, method: str, per_channel: bool) -> list[tuple[str, str]]:
    sample, source = quantised.sample, quantised.model.onnx
    assert source is not None
    scales = "a scale a channel" if per_channel else "a scale a layer"
    rows = [("calibrated with", f"{len(sample.calibration)} images, {method}, {scales}")]
    for one in quantised.compared:
        rows.append((one.engine, f"{one.agreement}, {one.mean_abs_diff:.2g} on average"))
        rows += _worst(one, quantised.model.labels)
    if len(sample.comparison) < FEW:
        rows.append(("note", f"{len(sample.comparison)} images say little; compare {FEW} or more"))
    sizes = [file.stat().st_size / 1e6 for file in (quantised.file, source)]
    rows += [
        ("left out", f"{len(sample.unreadable)} files that could not be read, {sample.repeated} repeated"),
        ("size", f"{sizes[0]:.1f} MB, in float32 {sizes[1]:.1f} MB"),
        ("path", str(quantised.file)),
        ("served with", "precision: int8 and native.engine: openvino, onnxruntime or auto"),
    ]
    return rows


def _worst(one: Compared, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    worst = one.worst_class
    if worst is None:
        return []
    return [("worst class", f"{labels[worst]}: {one.same_of_class[worst]} of {one.of_class[worst]} images")]


def _share(text: str) -> float:
    share = real(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a number above 0 and below 1")
    return share


def _share_or_all(text: str) -> float:
    share = real(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a number from 0 to 1")
    return share
