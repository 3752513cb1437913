"""The table of `python -m serving_models list`: the twelve variants, computed figures beside published ones."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from serving_models import complexity
from serving_models.variants import VARIANTS, Variant

NOTES = """\
input: side of the crop that top-1 and top-5 were published for; any side works. GFLOPs are those of 224x224.
published: PaddleClas. computed: the architecture here, counted as PaddleClas counts (paddle.flops: running statistics
are parameters, and batch normalisation and pooling are operations too). All agree to the published rounding, except
the parameters of 200MF and 4GF in the second decimal, and
* {name}: {mparams:.2f} M and {gflops:.2f} G disagree with its own architecture, which has {trained:.1f} M
trained parameters and needs {macs:.1f} G multiply-adds."""

_WIDTH = 79  # of the table, in columns


def variants_table() -> Table:
    """One row a variant, smallest first."""
    table = Table(
        title="RegNetX, ImageNet-1k, 1000 classes", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("variant", no_wrap=True)
    for heading in ("input", "top-1", "top-5", "GFLOPs\npublished", "\ncomputed", "params M\npublished", "\ncomputed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant in VARIANTS.values():
        table.add_row(*_row(variant))
    return table


def notes() -> str:
    """What the columns mean, and where published and computed disagree."""
    odd = VARIANTS["RegNetX_32GF"]
    return NOTES.format(
        name=odd.name,
        mparams=odd.mparams,
        gflops=odd.gflops,
        trained=complexity.trained_parameters(odd) / 1e6,
        macs=complexity.multiply_adds(odd) / 1e9,
    )


def print_variants(console: Console | None = None) -> None:
    """Print the table and its notes."""
    console = console or Console()
    # Cut columns would say nothing; a terminal that is narrower folds the lines itself.
    console.width = max(console.width, _WIDTH)
    console.print(variants_table())
    console.print(notes(), highlight=False, soft_wrap=True)


def _row(variant: Variant) -> tuple[str, ...]:
    mark = "*" if variant.name == "RegNetX_32GF" else ""
    return (
        variant.name + mark,
        str(variant.input_size),
        f"{variant.top1:.1%}",
        f"{variant.top5:.1%}",
        f"{variant.gflops:.2f}",
        f"{complexity.operations(variant) / 1e9:.2f}",
        f"{variant.mparams:.2f}",
        f"{complexity.parameters(variant) / 1e6:.2f}",
    )
