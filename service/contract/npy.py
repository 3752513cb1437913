"""Bytes of a numpy .npy file -> what array it holds, with nothing evaluated or unpickled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from math import prod

import numpy as np

from service.errors import RpcPackageError

# As numpy.save writes it (numpy/lib/format.py, "Format Version 1.0"); a dtype of records does not match
_HEADER = re.compile(
    rb"\{'descr': '([^'\\]{1,40})', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]{0,400})\), \}[ \n]*"
)
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_ACCEPTED = "accepted is what numpy.save writes of a 1-d uint8 array"


@dataclass(frozen=True)
class Array:
    """An array of a request. ``data`` is there for uint8 only, in C order: nothing else can be an encoded file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = b""


def read_npy(content: bytes) -> Array:
    """The array of a .npy file. Raises RpcPackageError: not such a file, cut off, or Python objects in it.

    Allocates at most the bytes that are there, whatever the header promises.
    """
    if not content:
        raise RpcPackageError("No data left in file")  # numpy.load's words
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise RpcPackageError(f"byte_data is not a .npy file (begins with {content[:8]!r}); {_ACCEPTED}")
    descr, shape, start = _read_header(content)
    if "O" in descr:
        raise RpcPackageError(f"byte_data holds pickled Python objects, which are never loaded; {_ACCEPTED}")
    if descr != "|u1":
        return Array(descr, shape)
    promised, present = prod(shape), max(0, len(content) - start)
    if present < promised:
        raise RpcPackageError(f"byte_data is cut off: shape {shape} needs {promised} bytes, {present} are there")
    return Array("uint8", shape, content[start : start + promised])


def _read_header(content: bytes) -> tuple[str, tuple[int, ...], int]:
    """The dtype as it is written, the shape, and where the data begins."""
    try:
        version = np.lib.format.read_magic(BytesIO(content[:8]))
    except ValueError as error:
        raise RpcPackageError(str(error)) from None
    if version not in _LENGTH_BYTES:
        raise RpcPackageError(f"we only support format version (1,0), (2,0), and (3,0), not {version}")
    start = 8 + _LENGTH_BYTES[version]
    end = start + int.from_bytes(content[8:start], "little")
    match = _HEADER.fullmatch(content, start, end)
    if match is None:
        raise RpcPackageError(f"byte_data has a header that is cut off or of another kind; {_ACCEPTED}")
    numbers = re.findall(rb"[0-9]+", match[2])
    return match[1].decode("latin-1"), tuple(map(int, numbers)), end
