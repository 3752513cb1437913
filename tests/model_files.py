"""Sources of exports for the tests: a small RegNetX with random weights, in each form that PaddleClas gives it."""

from __future__ import annotations

import shutil
import struct
import tarfile
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml
from paddle.pir_utils import OldIrGuard

from serving_models import network
from serving_models.program_files import read_program

CLASSES = 7
SIDE = 32
VARIANT = "RegNetX_200MF"


def small_network(classes: int = CLASSES, variant: str = VARIANT) -> Any:
    """A network whose scores differ from image to image: running statistics are random too."""
    paddle.seed(classes)
    layer = network.build(variant, classes)
    random = np.random.default_rng(classes)
    for name, value in layer.state_dict().items():
        if name.endswith("_mean"):
            value.set_value(random.normal(scale=0.1, size=value.shape).astype(np.float32))
        if name.endswith("_variance"):
            value.set_value(random.uniform(0.5, 1.5, size=value.shape).astype(np.float32))
    layer.eval()
    return layer


def save_weights(layer: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    paddle.save(layer.state_dict(), str(path))
    return path


def save_program(layer: Any, folder: Path, *, old: bool = True, input_name: str = "x", side: int = SIDE) -> Path:
    """``inference.pdmodel``, or with ``old=False`` Paddle 3's ``inference.json``; with whatever ``layer`` computes."""
    image = paddle.static.InputSpec([None, 3, side, side], "float32", name=input_name)
    layer.eval()
    with warnings.catch_warnings(), OldIrGuard() if old else nullcontext():
        warnings.simplefilter("ignore")  # of Paddle, about its own networks
        paddle.jit.save(layer, str(folder / "inference"), input_spec=[image])
    return folder


def with_softmax(layer: Any) -> Any:
    return paddle.nn.Sequential(layer, paddle.nn.Softmax())


class Scaled(paddle.nn.Layer):
    """Ends as exports of Paddle 1 and 2.0 do, in a copy that names the output (``save_infer_model/scale_0``)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.scale(self.layer(x), 1.0, 0.0)


def as_fluid(pdmodel: Path, folder: Path) -> Path:
    """The same under the names of Paddle 1: ``__model__`` and ``__params__``."""
    folder.mkdir()
    shutil.copy(pdmodel / "inference.pdmodel", folder / "__model__")
    shutil.copy(pdmodel / "inference.pdiparams", folder / "__params__")
    return folder


def as_scattered(pdmodel: Path, folder: Path) -> Path:
    """The same with each parameter in a file of its own: a combined file holds them one after the other, sorted."""
    folder.mkdir()
    shutil.copy(pdmodel / "inference.pdmodel", folder / "__model__")
    content = (pdmodel / "inference.pdiparams").read_bytes()
    offset = 0
    for name, shape in sorted(read_program(folder / "__model__").parameters.items()):
        (length,) = struct.unpack_from("<i", content, offset + 16)
        end = offset + 20 + length + 4 * int(np.prod(shape))
        (folder / name).write_bytes(content[offset:end])
        offset = end
    return folder


def as_tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=path.stem)
    return path


def write_inference_yml(folder: Path, *, labels: list[str] | None = None, size: int = SIDE, **resize: Any) -> Path:
    """As PaddleClas writes it; ``resize`` adds to the options of ResizeImage."""
    document = {
        "Global": {"model_name": VARIANT},
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"resize_short": 40} | resize},
                {"CropImage": {"size": size}},
                {
                    "NormalizeImage": {
                        "channel_num": 3,
                        "mean": [0.5] * 3,
                        "order": "",
                        "scale": 1 / 255,
                        "std": [0.25] * 3,
                    }
                },
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"Topk": {"topk": 5} | ({"label_list": labels} if labels else {})},
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder
