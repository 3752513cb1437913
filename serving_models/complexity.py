"""variant -> the number of its parameters and of its operations; arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from serving_models.layers import Convolution, convolutions, parameter_shapes
from serving_models.variants import IMAGENET_CLASSES, Variant


def parameters(variant: Variant, classes: int = IMAGENET_CLASSES) -> int:
    """The number of values in the state dict: trained ones and running statistics, as ``paddle.flops`` counts them."""
    return sum(prod(shape) for shape in parameter_shapes(variant, classes).values())


def trained_parameters(variant: Variant, classes: int = IMAGENET_CLASSES) -> int:
    """The number of trained values, as papers count them: without the running statistics."""
    statistics = sum(2 * convolution.out_width for _, convolution in convolutions(variant))
    return parameters(variant, classes) - statistics


def multiply_adds(variant: Variant, side: int = 224, classes: int = IMAGENET_CLASSES) -> int:
    """Multiply-adds of the convolutions and the head for one ``side`` x ``side`` image, as papers count them."""
    macs = (prod(convolution.weight_shape) * pixels for convolution, pixels in _outputs(variant, side))
    return sum(macs) + variant.widths[-1] * classes


def operations(variant: Variant, side: int = 224, classes: int = IMAGENET_CLASSES) -> int:
    """What ``paddle.flops`` counts, and PaddleClas publishes: multiply-adds, plus two operations for each value
    normalised and one for each value pooled (and the division after it)."""
    outputs = list(_outputs(variant, side))
    normalised = sum(2 * convolution.out_width * pixels for convolution, pixels in outputs)
    last_pixels = outputs[-1][1]
    pooled = variant.widths[-1] * (last_pixels + 1)
    return multiply_adds(variant, side, classes) + normalised + pooled


def _outputs(variant: Variant, side: int) -> Iterator[tuple[Convolution, int]]:
    """Every convolution with the number of pixels it puts out."""
    for name, convolution in convolutions(variant):
        # A shortcut, last of its block, reads the block's input and ends at the side the block already has.
        if not name.endswith(".short"):
            side = (side - 1) // convolution.stride + 1
        yield convolution, side * side
