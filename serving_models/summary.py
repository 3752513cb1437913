"""An exported model -> the table that `export` ends with."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from serving_models.export import VERIFIED_INPUTS, Exported
from serving_models.serving_model import FILES
from serving_models.variants import IMAGENET_CLASSES


def summary_table(exported: Exported) -> Table:
    """What was written, where, and how near to its source."""
    table = Table(title=f"{exported.description.name}: ready to serve", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(exported):
        table.add_row(label, Text(value))
    return table


def _rows(exported: Exported) -> list[tuple[str, str]]:
    description, source = exported.description, exported.description.source
    image, labels = description.input, description.labels
    numbered = source.classes != IMAGENET_CLASSES and labels == tuple(map(str, range(source.classes)))
    size = sum((exported.folder / file).stat().st_size for file in FILES.values())
    return [
        ("source", f"{source.path} ({source.kind.replace('_', ' ')})"),
        ("architecture", source.architecture),
        (
            "classes",
            f"{source.classes}: {labels[0]} … {labels[-1]}" + (" (numbers; --labels names them)" if numbered else ""),
        ),
        (
            "input",
            f"RGB, short side to {image.resize_short}, centre crop {image.height} x {image.width}",
        ),
        ("normalisation", f"scale {image.scale:.6g}, mean {_numbers(image.mean)}, std {_numbers(image.std)}"),
        ("max abs difference", f"{exported.max_abs_diff:.2g} to the source's scores, {VERIFIED_INPUTS} random inputs"),
        ("size", f"{size / 1e6:.1f} MB"),
        ("path", str(exported.folder / "serving_server")),
    ]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
