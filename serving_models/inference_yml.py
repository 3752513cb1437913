"""PaddleClas's ``inference.yml`` -> how the model is fed, and its labels.

The format is what PaddleClas 2.6 writes at export (``dump_infer_config`` in ppcls/utils/config.py): the transforms of
its ``Infer`` or evaluation section, and the post-processing with the label list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.errors import MOST_BITS, ModelError, short, shown
from serving_models.class_labels import read_labels

_ORDER = ("DecodeImage", "ResizeImage", "CropImage", "NormalizeImage")
ACCEPTED_TRANSFORMS = ", ".join((*_ORDER, "ToCHWImage"))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Feeding:
    """How images become the model's input; None where the file leaves it open.

    ``crop`` is (height, width) in pixels, ``resize_short`` the short side in pixels before the crop; values are scaled,
    then normalised by ``mean`` and ``std`` in RGB order.
    """

    crop: tuple[int, int] | None = None
    resize_short: int | None = None
    scale: float = 1 / 255
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    labels: tuple[str, ...] | None = None


class _RefusedError(Exception):
    """Something in the file that the service cannot do, or that is not what it must be."""


def read_inference_yml(path: Path) -> Feeding:
    """What an ``inference.yml`` says of the model's input and labels.

    Raises ModelError naming the entry for a file that is no YAML, or asks for what the service does not do.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    # PyYAML lets through what its constructors stumble over, as at the date 2001-13-45.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ModelError(f"{path}: not YAML: {short(' '.join(str(error).split()))}") from None
    try:
        return _feeding(_mapping(document, "the file"), path)
    except _RefusedError as error:
        raise ModelError(f"{path}: {error}") from None


def _feeding(document: Mapping[str, Any], path: Path) -> Feeding:
    facts: dict[str, Any] = {}
    operators = _mapping(document.get("PreProcess", {}), "PreProcess").get("transform_ops", [])
    if not isinstance(operators, list):
        raise _RefusedError(f"PreProcess.transform_ops is {shown(operators)}; accepted is a list")
    transforms = [item for operator in operators for item in _mapping(operator, "a transform").items()]
    names = [name for name, _ in transforms]
    _refuse_order(names)
    for name, options in transforms:
        facts |= _READERS[name](_mapping(options or {}, name))
    # Without it PaddleClas feeds values from 0 to 255; with its defaults we would feed something else.
    if names and "NormalizeImage" not in names:
        raise _RefusedError(f"no NormalizeImage among its transforms, {', '.join(names)}")
    return Feeding(**facts, labels=_labels(document.get("PostProcess"), path.parent))


def _refuse_order(names: list[str]) -> None:
    """Another order makes another input."""
    unknown = [name for name in names if name not in _READERS]
    if unknown:
        raise _RefusedError(f"transform {shown(unknown[0])} is not supported; accepted are {ACCEPTED_TRANSFORMS}")
    # ToCHWImage may stand before NormalizeImage, whose "order" then says so.
    if [name for name in names if name != "ToCHWImage"] != [name for name in _ORDER if name in names]:
        raise _RefusedError(
            f"the transforms are {short(', '.join(names))}; accepted is, in this order: {ACCEPTED_TRANSFORMS}"
        )


def _decode(options: Mapping[str, Any]) -> dict[str, Any]:
    if options.get("to_rgb", True) is not True:
        raise _RefusedError(
            f"DecodeImage.to_rgb is {shown(options['to_rgb'])}; accepted is true (images are fed as RGB)"
        )
    return {}


def _resize(options: Mapping[str, Any]) -> dict[str, Any]:
    if options.get("interpolation") not in (None, "bilinear"):
        raise _RefusedError(f"ResizeImage.interpolation is {shown(options['interpolation'])}; accepted is 'bilinear'")
    if options.get("backend") not in (None, "cv2"):
        raise _RefusedError(f"ResizeImage.backend is {shown(options['backend'])}; accepted is 'cv2'")
    if "resize_short" not in options:
        raise _RefusedError(f"ResizeImage has {shown(list(options))}; accepted is resize_short")
    return {"resize_short": _pixels(options["resize_short"], "ResizeImage.resize_short")}


def _crop(options: Mapping[str, Any]) -> dict[str, Any]:
    size = options.get("size")
    if not isinstance(size, list):
        side = _pixels(size, "CropImage.size")
        return {"crop": (side, side)}
    if len(size) != 2:
        raise _RefusedError(f"CropImage.size is {shown(size)}; accepted are a number of pixels and [width, height]")
    # NOTE width first: what PaddleClas's CropImage does, whatever its comment says.
    width, height = (_pixels(value, "CropImage.size") for value in size)
    return {"crop": (height, width)}


def _normalize(options: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if options.get("scale") is not None:
        facts["scale"] = _fraction(options["scale"])
    for key in ("mean", "std"):
        if options.get(key) is not None:
            facts[key] = _triple(options[key], f"NormalizeImage.{key}")
    if any(value <= 0 for value in facts.get("std", ())):
        raise _RefusedError(f"NormalizeImage.std is {shown(options['std'])}; accepted are numbers above 0")
    return facts


def _nothing(_: Mapping[str, Any]) -> dict[str, Any]:
    return {}


_READERS = {
    "DecodeImage": _decode,
    "ResizeImage": _resize,
    "CropImage": _crop,
    "NormalizeImage": _normalize,
    "ToCHWImage": _nothing,
}


def _labels(post_process: Any, folder: Path) -> tuple[str, ...] | None:
    topk = _mapping(post_process or {}, "PostProcess").get("Topk") or {}
    topk = _mapping(topk, "PostProcess.Topk")
    if topk.get("label_list") is not None:
        labels = topk["label_list"]
        if not isinstance(labels, list) or not labels:
            raise _RefusedError(f"PostProcess.Topk.label_list is {shown(labels)}; accepted is a list of labels")
        return tuple(_label(label) for label in labels)
    if topk.get("class_id_map_file") is not None:
        return read_labels(_beside(folder, _text(topk["class_id_map_file"])))
    return None


def _beside(folder: Path, name: str) -> Path:
    """A file in the folder or below it. A model may be a stranger's: no other file of this disk becomes its labels."""
    file = folder / name
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, or links in a circle
        inside = False
    if not inside:
        raise _RefusedError(
            f"PostProcess.Topk.class_id_map_file is {shown(name)}; accepted is a file in the folder of inference.yml"
        )
    return file


def _label(value: Any) -> str:
    label = _text(value).strip()
    if not label or "\n" in label:
        raise _RefusedError(f"PostProcess.Topk.label_list holds {shown(value)}; accepted are labels of one line")
    return label


def _text(value: Any) -> str:
    """A text, number or date as text; of what may be without end to write, whose aliases multiply, nothing."""
    if isinstance(value, (dict, list, tuple, set)) or (isinstance(value, int) and value.bit_length() > MOST_BITS):
        return ""
    return str(value)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _RefusedError(f"{what} is {shown(value)}; accepted is a mapping")
    return value


def _pixels(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
        raise _RefusedError(f"{what} is {shown(value)}; accepted is a whole number of pixels from 1 to 4096")
    return value


def _fraction(value: Any) -> float:
    """A number, or a quotient as PaddleClas's configurations write it: ``1.0/255.0``."""
    try:
        numerator, _, denominator = _text(value).partition("/")
        found = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found) or found <= 0:
        raise _RefusedError(f"NormalizeImage.scale is {shown(value)}; accepted are a positive number and '1.0/255.0'")
    return found


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _triple(value: Any, what: str) -> Triple:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(isinstance(n, (int, float)) and _is_finite(n) for n in numbers):
        raise _RefusedError(f"{what} is {shown(value)}; accepted are 3 numbers, for R, G and B")
    red, green, blue = (float(n) for n in numbers)
    return red, green, blue
