"""The parameter files of an inference model -> arrays by name; read as data, bounded by what the program declares.

A tensor on disk is: u32 version, u64 count of LoD levels (each u64 bytes, then those), u32 version, i32 length of a
``VarType.TensorDesc``, that, then the values (paddle/fluid/framework/lod_tensor.cc, tensor_util.cc). A combined file
holds one after the other, in the order of their sorted names.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from service.errors import ModelError, shown
from serving_models.graph import Shape
from serving_models.paddle_runtime import program_format

Array = npt.NDArray[np.float32]
_HEAD = struct.Struct("<IQ")
_DESC_HEAD = struct.Struct("<Ii")


class _DamagedError(Exception):
    """The bytes are not those of the tensor that is expected here."""


def read_combined(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """All parameters of one ``.pdiparams`` or ``__params__`` file.

    Raises ModelError for a file that is empty, cut short, too long, or holds tensors of other shapes or types.
    """
    content = memoryview(path.read_bytes())
    if not content:
        raise ModelError(f"{path}: an empty file; accepted are the parameters of the program beside it")
    arrays: dict[str, Array] = {}
    offset = 0
    for name in sorted(shapes):
        arrays[name], offset = _named_tensor(path, content, offset, name=name, shape=shapes[name])
    if offset != len(content):
        raise ModelError(f"{path}: {len(content) - offset} bytes more than the program's {len(shapes)} parameters take")
    return arrays


def read_scattered(folder: Path, shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """Parameters in one file each, named as they are in the program."""
    return dict(_scattered(folder, shapes))


def _scattered(folder: Path, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Array]]:
    for name, shape in shapes.items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise ModelError(f"{folder}: no file with the parameter {shown(name)} of its program")
        content = memoryview(path.read_bytes())
        array, end = _named_tensor(path, content, 0, name=name, shape=shape)
        if end != len(content):
            raise ModelError(f"{path}: {len(content) - end} bytes more than its tensor takes")
        yield name, array


def _named_tensor(path: Path, content: memoryview, offset: int, *, name: str, shape: Shape) -> tuple[Array, int]:
    try:
        array, end = _tensor(content, offset, shape)
    except (struct.error, DecodeError):
        raise ModelError(
            f"{path}: damaged or cut short at parameter {shown(name)}, byte {offset} of {len(content)}"
        ) from None
    except _DamagedError as error:
        raise ModelError(f"{path}: parameter {shown(name)} at byte {offset} of {len(content)}: {error}") from None
    if not np.isfinite(array).all():
        raise ModelError(f"{path}: parameter {shown(name)} holds values that are not finite")
    return array, end


def _tensor(content: memoryview, offset: int, shape: Shape) -> tuple[Array, int]:
    version, levels = _HEAD.unpack_from(content, offset)
    if version or levels:
        raise _DamagedError("not a dense tensor of format version 0")
    offset += _HEAD.size
    version, length = _DESC_HEAD.unpack_from(content, offset)
    offset += _DESC_HEAD.size
    if version or not 0 < length <= 256:
        raise _DamagedError("not a dense tensor of format version 0")
    desc = program_format.VarType.TensorDesc()
    desc.ParseFromString(bytes(content[offset : offset + length]))
    offset += length
    _refuse_other(desc, shape)
    if min(shape, default=1) < 1:
        raise _DamagedError(f"of shape {shape}, where every side is 1 or more")
    count = math.prod(shape)
    if offset + 4 * count > len(content):
        raise _DamagedError(f"cut short, {offset + 4 * count - len(content)} bytes are missing")
    return np.frombuffer(content, dtype="<f4", count=count, offset=offset).reshape(shape), offset + 4 * count


def _refuse_other(desc: program_format.VarType.TensorDesc, shape: Shape) -> None:
    if desc.data_type != program_format.VarType.FP32:
        kind = program_format.VarType.Type.Name(desc.data_type).lower()
        raise _DamagedError(f"of type {kind}; accepted is fp32")
    if tuple(desc.dims) != shape:
        raise _DamagedError(f"of shape {tuple(desc.dims)}, but the program declares {shape}")
