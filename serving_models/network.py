"""A RegNetX network: (n, 3, height, width) float32 images -> (n, classes) logits.

Built after "Designing Network Design Spaces" (arXiv:2003.13678). Layers carry the attribute names of PaddleClas's
RegNet (``conv``, ``s1_b1.conv0._conv``, ``out`` ...), so that its state dicts load by structured name.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

from service.errors import ModelError
from serving_models.layers import Convolution, block_convolutions, stem_convolution
from serving_models.variants import STAGES, VARIANTS, Variant

# NOTE Paddle's types are incomplete, so here and at `type: ignore[misc]` (a subclass of Any) checking ends at its door.
Tensor = Any


class ConvolutionBatchNorm(nn.Layer):  # type: ignore[misc]
    """A convolution without bias, then batch normalisation."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self._conv = nn.Conv2D(
            convolution.in_width,
            convolution.out_width,
            convolution.kernel,
            stride=convolution.stride,
            padding=convolution.kernel // 2,
            groups=convolution.groups,
            bias_attr=False,
        )
        self._batch_norm = nn.BatchNorm2D(convolution.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        return self._batch_norm(self._conv(x))


class Bottleneck(nn.Layer):  # type: ignore[misc]
    """Residual block: relu(x + f(x)), f = 1x1, grouped 3x3, 1x1; x is projected where f changes its shape."""

    def __init__(self, convolutions: dict[str, Convolution]) -> None:
        super().__init__()
        self.conv0 = ConvolutionBatchNorm(convolutions["conv0"])
        self.conv1 = ConvolutionBatchNorm(convolutions["conv1"])
        self.conv2 = ConvolutionBatchNorm(convolutions["conv2"])
        self.short = ConvolutionBatchNorm(convolutions["short"]) if "short" in convolutions else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        y = functional.relu(self.conv0(x))
        y = functional.relu(self.conv1(y))
        y = self.conv2(y)
        shortcut = x if self.short is None else self.short(x)
        return functional.relu(shortcut + y)


class RegNetX(nn.Layer):  # type: ignore[misc]
    """Stem, four stages of bottlenecks, head."""

    def __init__(self, variant: Variant, classes: int) -> None:
        super().__init__()
        self.conv = ConvolutionBatchNorm(stem_convolution())
        self._blocks = []
        for stage in range(1, STAGES + 1):
            for block in range(1, variant.depths[stage - 1] + 1):
                bottleneck = Bottleneck(block_convolutions(variant, stage, block))
                self._blocks.append(self.add_sublayer(f"s{stage}_b{block}", bottleneck))
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.out = nn.Linear(variant.widths[-1], classes)

    # Paddle would rewrite this and all that it calls for branches that depend on tensors, of which there are none: an
    # export takes half the time without, and writes the same bytes.
    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) float32 -> (n, classes) logits; any height and width, averaged before the head."""
        x = functional.relu(self.conv(x))
        for block in self._blocks:
            x = block(x)
        return self.out(paddle.flatten(self.pool(x), 1))


def build(variant: str, classes: int) -> RegNetX:
    """The network of a variant of the table, with fresh random weights, in training mode.

    Raises ModelError for a name that is not in the table and for fewer than one class.
    """
    if variant not in VARIANTS:
        raise ModelError(f"no variant is called {variant!r}; accepted are {', '.join(VARIANTS)}")
    if classes < 1:
        raise ModelError(f"a network cannot have {classes} classes; accepted is 1 or more")
    return RegNetX(VARIANTS[variant], classes)
