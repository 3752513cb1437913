"""The twelve RegNetX as one table: what each is built of, and what PaddleClas publishes of it."""

from __future__ import annotations

from dataclasses import dataclass

STEM_WIDTH = 32
STAGES = 4
IMAGENET_CLASSES = 1000
OFFICIAL_ADDRESS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


@dataclass(frozen=True)
class Variant:
    """One RegNetX: four stages of ``depths`` blocks, ``widths`` channels, convolved in groups of ``group_width``.

    The published columns are those of PaddleClas for its official ImageNet-1k weights: accuracies as fractions,
    multiply-adds in G at 224x224, parameters in M. ``input_size`` is the side of the crop they were evaluated with.
    """

    name: str
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    group_width: int
    top1: float
    top5: float
    gflops: float
    mparams: float
    input_size: int = 256

    @property
    def group_widths(self) -> tuple[int, ...]:
        """The group width of each stage: never wider than the stage (RegNetX_8GF begins 80 wide, its groups 120)."""
        return tuple(min(self.group_width, width) for width in self.widths)

    @property
    def weights_url(self) -> str:
        """Where PaddleClas publishes the weights (``MODEL_URLS`` of its regnet.py)."""
        return f"{OFFICIAL_ADDRESS}/{self.name}_pretrained.pdparams"

    @property
    def inference_url(self) -> str:
        """Where PaddleClas publishes the exported inference model."""
        return f"{OFFICIAL_ADDRESS}/inference/{self.name}_infer.tar"


# Depths, widths and groups: Radosavovic et al., arXiv:2003.13678. Published columns: PaddleClas, table of ImageNet-1k
# models; its parameters and GFLOPs are counts of paddle.flops. PaddleClas has an evaluation configuration (crop 256)
# for all but 4GF, which its command line crops to 224.
# NOTE the published 32GF row (130.67 M, 32.33 G) disagrees with its own architecture (107.8 M, 31.7 G; complexity.py).
_TABLE = (
    Variant("RegNetX_200MF", (1, 1, 4, 7), (24, 56, 152, 368), 8, 0.680, 0.8842, 0.20, 2.74),
    Variant("RegNetX_400MF", (1, 2, 7, 12), (32, 64, 160, 384), 16, 0.723, 0.9078, 0.40, 5.19),
    Variant("RegNetX_600MF", (1, 3, 5, 7), (48, 96, 240, 528), 24, 0.737, 0.9198, 0.61, 6.23),
    Variant("RegNetX_800MF", (1, 3, 7, 5), (64, 128, 288, 672), 16, 0.751, 0.9250, 0.81, 7.30),
    Variant("RegNetX_1600MF", (2, 4, 10, 2), (72, 168, 408, 912), 24, 0.767, 0.9329, 1.62, 9.23),
    Variant("RegNetX_3200MF", (2, 6, 15, 2), (96, 192, 432, 1008), 48, 0.781, 0.9413, 3.20, 15.36),
    Variant("RegNetX_4GF", (2, 5, 14, 2), (80, 240, 560, 1360), 40, 0.785, 0.9416, 3.99, 22.16, input_size=224),
    Variant("RegNetX_6400MF", (2, 4, 10, 1), (168, 392, 784, 1624), 56, 0.790, 0.9461, 6.49, 26.28),
    Variant("RegNetX_8GF", (2, 5, 15, 1), (80, 240, 720, 1920), 120, 0.793, 0.9464, 8.02, 39.66),
    Variant("RegNetX_12GF", (2, 5, 11, 1), (224, 448, 896, 2240), 112, 0.797, 0.9501, 12.13, 46.20),
    Variant("RegNetX_16GF", (2, 6, 13, 1), (256, 512, 896, 2048), 128, 0.801, 0.9505, 15.99, 54.39),
    Variant("RegNetX_32GF", (2, 7, 13, 1), (336, 672, 1344, 2520), 168, 0.803, 0.9526, 32.33, 130.67),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _TABLE}
