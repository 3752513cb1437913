"""A serving model of Paddle Serving's own converter -> the facts that model.yml holds of ours.

The converter records names and shapes alone; how an image is fed is what PaddleClas's serving op does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.errors import ModelError, short, shown
from service.ops.facts import Facts, read_text

CONVERTED_FILE = "serving_server_conf.prototxt"
LABELS_FILE = "labels.txt"
RESIZE_SHORT = 256
FLOAT32 = "1"
IMAGENET_LABELS = Path(__file__).parents[2] / "serving_models/labels/imagenet1k.txt"
IMAGENET_CLASSES = 1000
# GeneralModelConfig as text (proto2): blocks of one level with keys and values
_BLOCK = re.compile(r"(feed_var|fetch_var)\s*:?\s*\{([^{}]*)\}")
_FIELD = re.compile(r"""(\w+)\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([-+.\w]+))\s*[,;]?""")
_COMMENT = re.compile(r"#.*")
_DIMENSION = re.compile(r"-?[0-9]{1,6}")  # more classes than six digits would be made up as labels, at their cost


def read_converted(server: Path) -> Facts:
    """The facts of the model in ``server``, as of a model.yml there. Raises ModelError for no image classifier."""
    file = server / CONVERTED_FILE
    variables = dict(_variables(file, _COMMENT.sub("", read_text(file))))
    image, answer = variables["feed_var"], variables["fetch_var"]
    (height, width), (classes,) = image["shape"][1:], answer["shape"]
    name = server.parent.name if server.name == "serving_server" else server.name
    values: dict[object, object] = {
        "name": name or "model",
        "architecture": "architecture not recorded",
        "input": {
            "name": image["name"],
            "dtype": "float32",
            "shape": image["shape"],
            "resize_short": max(RESIZE_SHORT, height, width),
            "interpolation": "bilinear",
            "channel_order": "RGB",
            "scale": 1 / 255,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "output": {"name": answer["name"], "activation": "softmax", "classes": classes},
        "files": {
            "program": _one_of(server, "*.pdmodel", "__model__"),
            "params": _one_of(server, "*.pdiparams", "__params__"),
        },
    }
    return Facts(file, values)


def converted_labels(server: Path, classes: int) -> tuple[str, ...]:
    """Those of a labels.txt in ``server`` or beside it; else ImageNet's of 1000 classes; else the classes' numbers.

    Raises ModelError where there are more or fewer labels than classes.
    """
    beside = [folder / LABELS_FILE for folder in (server, server.parent) if (folder / LABELS_FILE).is_file()]
    if not beside and classes != IMAGENET_CLASSES:
        return tuple(map(str, range(classes)))
    file = beside[0] if beside else IMAGENET_LABELS
    lines = read_text(file).rstrip("\n").split("\n")
    if len(lines) != classes:
        raise ModelError(f"{file}: {len(lines)} labels, but {CONVERTED_FILE} says {classes} classes")
    return tuple(line.strip() for line in lines)


def _variables(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    blocks = _BLOCK.findall(text)
    for kind, dimensions, accepted in (("feed_var", 3, "3 x height x width"), ("fetch_var", 1, "classes")):
        found = [_fields(body) for name, body in blocks if name == kind]
        if len(found) != 1:
            raise ModelError(f"{file}: {len(found)} {kind}, accepted: one")
        variable = found[0]
        shape = variable["shape"]
        wanted = len(shape) == dimensions and min(shape) > 0 and (dimensions == 1 or shape[0] == 3)
        if not wanted or variable["type"] != FLOAT32 or not variable["name"]:
            type_and_shape = f"type {short(variable['type'])} of shape {shown(shape)}"
            raise ModelError(
                f"{file}: {kind} {shown(variable['name'])} is {type_and_shape}, accepted: float32, {accepted}"
            )
        yield kind, variable


def _fields(body: str) -> dict[str, Any]:
    pairs = [(match[1], match[2] or match[3] or match[4] or "") for match in _FIELD.finditer(body)]
    single = dict(pairs)
    shape = [int(value) if _DIMENSION.fullmatch(value) else 0 for key, value in pairs if key == "shape"]
    return {
        "name": single.get("name", ""),
        "type": single.get("feed_type", single.get("fetch_type", "0")),
        "shape": shape,
    }


def _one_of(server: Path, pattern: str, fixed: str) -> str:
    """The file's name, found as stock's own predictor does."""
    files = sorted(server.glob(pattern)) or [server / fixed]
    if not files[0].is_file():
        raise ModelError(f"{server}: no {pattern} and no {fixed} in it")
    return files[0].name
