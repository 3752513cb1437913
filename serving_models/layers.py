"""variant -> its convolutions, and the shape of every parameter, by PaddleClas's names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving_models.variants import IMAGENET_CLASSES, STAGES, STEM_WIDTH, Variant

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """One convolution, padded so that only the stride shrinks the image, and batch-normalised."""

    in_width: int
    out_width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def weight_shape(self) -> Shape:
        """Output channels, input channels of one group, height, width."""
        return (self.out_width, self.in_width // self.groups, self.kernel, self.kernel)


def stem_convolution() -> Convolution:
    """The first convolution, the same in all twelve."""
    return Convolution(3, STEM_WIDTH, kernel=3, stride=2)


def block_convolutions(variant: Variant, stage: int, block: int) -> dict[str, Convolution]:
    """The convolutions of one bottleneck under their PaddleClas names; stages and blocks count from 1.

    The first block of a stage halves the image and projects its shortcut.
    """
    width = variant.widths[stage - 1]
    groups = width // variant.group_widths[stage - 1]
    first = block == 1
    in_width = (STEM_WIDTH, *variant.widths)[stage - 1] if first else width
    stride = 2 if first else 1
    convolutions = {
        "conv0": Convolution(in_width, width),
        "conv1": Convolution(width, width, kernel=3, stride=stride, groups=groups),
        "conv2": Convolution(width, width),
    }
    if first:
        convolutions["short"] = Convolution(in_width, width, stride=stride)
    return convolutions


def convolutions(variant: Variant) -> Iterator[tuple[str, Convolution]]:
    """Every convolution of the network with its PaddleClas name, from the stem on."""
    yield "conv", stem_convolution()
    for stage in range(1, STAGES + 1):
        for block in range(1, variant.depths[stage - 1] + 1):
            for name, convolution in block_convolutions(variant, stage, block).items():
                yield f"s{stage}_b{block}.{name}", convolution


def parameter_shapes(variant: Variant, classes: int = IMAGENET_CLASSES) -> dict[str, Shape]:
    """The shape of every entry of PaddleClas's state dict of this variant, by structured name.

    Batch normalisation has four vectors: ``weight`` and ``bias`` are trained, ``_mean`` and ``_variance`` measured.
    """
    shapes: dict[str, Shape] = {}
    for name, convolution in convolutions(variant):
        shapes[f"{name}._conv.weight"] = convolution.weight_shape
        for vector in ("weight", "bias", "_mean", "_variance"):
            shapes[f"{name}._batch_norm.{vector}"] = (convolution.out_width,)
    shapes["out.weight"] = (variant.widths[-1], classes)
    shapes["out.bias"] = (classes,)
    return shapes
