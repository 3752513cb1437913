"""A PaddleClas ``.pdparams`` file -> arrays by parameter name -> a network; no pickle is ever executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ModelError, short, shown
from serving_models.layers import Shape, parameter_shapes
from serving_models.restricted_pickle import PickledArray, RefusedError, unpickle
from serving_models.variants import VARIANTS

Weights = dict[str, npt.NDArray[np.float32]]

ACCEPTED = "accepted is the state dict of a RegNetX, as PaddleClas writes it with paddle.save"
# paddle.save's table from structured names to those of the static graph; loading by structured name ignores it.
_NAME_TABLE = "StructuredToParameterName@@"
_NAMED_AT_MOST = 5


class Network(Protocol):
    """What loading needs of a ``paddle.nn.Layer``; this module imports no Paddle."""

    def state_dict(self) -> dict[str, Any]: ...

    def set_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def read_weights(path: Path) -> Weights:
    """The arrays of a ``.pdparams`` file by structured parameter name, float32.

    Raises ModelError naming what was found where that is no state dict of finite numbers; see restricted_pickle.
    """
    found = _unpickle_file(path)
    if not isinstance(found, dict):
        raise _refusal(path, f"holds a pickled {type(found).__name__}")
    entries = {key: value for key, value in found.items() if key != _NAME_TABLE}
    if not entries:
        raise _refusal(path, "holds no parameters")
    return {_name(key, path): _as_float32(value, key, path) for key, value in entries.items()}


def load_strictly(network: Network, weights: Weights, *, source: Path) -> None:
    """Fill every parameter and running statistic of the network.

    Raises ModelError naming the entries that are missing, extra or of another shape, and then changes nothing.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in network.state_dict().items()}
    _refuse_differences(weights, expected, source)
    network.set_state_dict(dict(weights))


def classes_of(weights: Weights, source: Path) -> int:
    """The number of classes: the width of the head, ``out.weight`` (features, classes)."""
    head = weights.get("out.weight")
    if head is None or head.ndim != 2:
        found = "no out.weight" if head is None else f"out.weight of shape {head.shape}"
        raise _refusal(source, f"{found}, so no head of a RegNetX, among {_some(list(weights))}")
    return int(head.shape[1])


def variant_of(weights: Weights, source: Path) -> str:
    """The variant whose parameters these are, by their shapes; all twelve differ.

    Raises ModelError where the shapes are those of none, naming the differences to the variant that the file is named
    after or else to the nearest, and where the file is named after another variant than it holds.
    """
    classes = classes_of(weights, source)
    expected = {name: parameter_shapes(variant, classes) for name, variant in VARIANTS.items()}
    differences = {name: len(_differences(weights, shapes)) for name, shapes in expected.items()}
    named = _variants_named_in(source.name)
    nearest = min(differences, key=lambda name: differences[name])
    if differences[nearest]:
        compared = named[0] if len(named) == 1 else nearest
        _refuse_differences(weights, expected[compared], source, to=compared)
    if named and nearest not in named:
        raise ModelError(f"{source}: named after {' and '.join(named)}, but has the shapes of {nearest}; rename it")
    return nearest


def _unpickle_file(path: Path) -> object:
    try:
        with path.open("rb") as stream:
            head = stream.peek(512)[:512]
            if not head.startswith(b"\x80"):
                raise _refusal(path, _describe(head))
            return unpickle(stream)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except RefusedError as error:
        raise _refusal(
            path, f"refers to {short(str(error))}, which no state dict needs (nothing was executed)"
        ) from None
    # Damaged bytes are opcodes like any others: the unpickler answers with nearly every type there is.
    except Exception as error:
        raise _refusal(path, f"damaged or cut short ({short(str(error))})") from error


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(b"PK"):
        return "a zip archive, as PyTorch writes it"
    if re.match(rb"\x08[\x01-\x1f][\x12:]", head):
        return "an ONNX model"
    if all(byte >= 0x20 or byte in b"\t\n\r" for byte in head):
        return "a text file"
    return f"begins with the bytes {head[:8].hex(' ')}, so no pickle"


def _name(key: object, path: Path) -> str:
    if not isinstance(key, str):
        raise _refusal(path, f"has a {type(key).__name__} where the name of a parameter is expected")
    return key


def _as_float32(value: object, key: str, path: Path) -> npt.NDArray[np.float32]:
    if not isinstance(value, PickledArray):
        raise _refusal(path, f"{shown(key)} is a {type(value).__name__}, not an array")
    if value.array.dtype.kind != "f" or value.array.dtype.itemsize > 4:
        raise ModelError(
            f"{path}: {shown(key)} is of type {short(str(value.array.dtype))}; accepted are float32 and float16"
        )
    if not np.isfinite(value.array).all():
        raise ModelError(f"{path}: {shown(key)} holds values that are not finite")
    return value.array.astype(np.float32)


def _variants_named_in(file_name: str) -> list[str]:
    # A digit before the number is part of it: RegNetX_1600MF is not a 600MF.
    found = {number.upper() for number in re.findall(r"regnetx[_-]?(\d+[mg]f)", file_name, re.IGNORECASE)}
    return [name for name in VARIANTS if name.removeprefix("RegNetX_") in found]


def _differences(weights: Weights, expected: dict[str, Shape]) -> list[str]:
    """One text per entry that is missing, extra or of another shape."""
    shapes = {name: value.shape for name, value in weights.items()}
    missing = [f"missing {name}" for name in expected if name not in shapes]
    extra = [f"extra {name}" for name in shapes if name not in expected]
    misshapen = [
        f"{name} is {shapes[name]}, not {expected[name]}"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    return missing + extra + misshapen


def _refuse_differences(weights: Weights, expected: dict[str, Shape], source: Path, *, to: str = "the network") -> None:
    differences = _differences(weights, expected)
    if differences:
        raise _refusal(source, f"not the parameters of {to}: {_some(differences)}")


def _refusal(source: Path, found: str) -> ModelError:
    return ModelError(f"{source}: {found}; {ACCEPTED}")


def _some(texts: list[str]) -> str:
    more = len(texts) - _NAMED_AT_MOST
    return ", ".join(map(short, texts[:_NAMED_AT_MOST])) + (f" and {more} more" if more > 0 else "")
