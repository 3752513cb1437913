"""The parts of PaddleClas 2.6.0 that ours are compared with, loaded without the rest of it.

``import paddleclas`` pulls in every network, faiss, scikit-image and more. The files wanted here need only numpy,
OpenCV, Pillow and Paddle, as long as the ``__init__`` of none of their parent packages runs: bare packages stand in for
those in ``sys.modules``, and the distribution can be installed with ``pip install --no-deps``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle


@cache
def regnet_module() -> Any:
    """PaddleClas's regnet.py, with ``RegNetX_200MF(class_num=...)`` and its eleven siblings."""
    # Only its download of weights uses this one.
    save_load = _module("paddleclas.ppcls.utils.save_load", load_dygraph_pretrain=None)
    _add(_module("paddleclas.ppcls.utils", __path__=[]), save_load)
    return _import_bare("paddleclas.ppcls.arch.backbone.model_zoo.regnet")


@cache
def preprocess_operators() -> Any:
    """PaddleClas's deploy/python/preprocess.py: DecodeImage, ResizeImage, CropImage, NormalizeImage, ToCHWImage,
    and ``create_operators``, which makes a list of them from an inference.yml's ``transform_ops``."""
    # It asks six only whether this is Python 2.
    if importlib.util.find_spec("six") is None:
        _add(_module("six", PY2=False))
    return _import_bare("paddleclas.deploy.python.preprocess")


def network(variant: str, classes: int) -> Any:
    """PaddleClas's network of this name, returning logits, with fresh random weights.

    Its parameters carry fixed names, of which Paddle allows each once in a scope: so each network has its own.
    """
    with paddle.utils.unique_name.guard():
        return getattr(regnet_module(), variant)(class_num=classes)


def shapes(variant: str, classes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of PaddleClas's state dict of this variant by structured name; no weights are made."""
    with paddle.LazyGuard():
        return {name: tuple(value.shape) for name, value in network(variant, classes).state_dict().items()}


def _import_bare(name: str) -> Any:
    above = name.split(".")[1:-1]
    for depth in range(len(above) + 1):
        folder = _root().joinpath(*above[:depth])
        _add(_module(".".join(["paddleclas", *above[:depth]]), __path__=[str(folder)]))
    return importlib.import_module(name)


def _add(*modules: ModuleType) -> None:
    for module in modules:
        sys.modules.setdefault(module.__name__, module)


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


@cache
def _root() -> Path:
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the reference is missing: pip install --no-deps paddleclas==2.6.0")
    return Path(spec.origin).parent
