"""A pickle of arrays -> its containers and arrays; what else it names is refused, and no code but this file's runs."""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

# Kind and size as numpy pickles them; everything a state dict may hold, and nothing that refers to objects.
_NUMBER_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})  # the opcodes that say at which index
MOST_OPCODES = 1_000_000  # the state dict of RegNetX_32GF has 12,249


class RefusedError(pickle.UnpicklingError):
    """The pickle refers to something that arrays of numbers do not need; a hostile one would have called it."""


class PickledDtype:
    """Stands where the pickle names ``numpy.dtype``: a number's kind and size, then its byte order."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if code not in _NUMBER_CODES:
            raise RefusedError(f"arrays of numpy type {code!r}")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Of numpy's eight values only the second matters to a number: its byte order."""
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands where the pickle names ``numpy.ndarray``; filled by its state, as numpy's own array would be."""

    # Of the class too: a hostile pickle can leave out every call, but not what is there already.
    array: npt.NDArray[Any] = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """``(version, shape, dtype, is_fortran, data)``: ``numpy.ndarray.__reduce__``, version 1."""
        _, shape, pickled, is_fortran, data = state
        if not isinstance(pickled, PickledDtype):
            raise pickle.UnpicklingError("an array without a type")
        # Protocol 2 of Python 2 writes the bytes as text.
        data = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(data, pickled.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind: object, shape: object, code: object) -> PickledArray:
    """``numpy.core.multiarray._reconstruct``: an empty array, whatever size the pickle asks for."""
    return PickledArray()


def _encode(text: str, encoding: str) -> bytes:
    """``_codecs.encode``, as protocol 2 spells bytes."""
    if encoding != "latin1":
        raise RefusedError(f"the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """Resolves the few names above to the stand-ins of this module and refuses every other before it is imported."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The stand-in for a name; raises RefusedError with the name otherwise."""
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise RefusedError(f"{module_name}.{global_name}") from None


def unpickle(stream: BinaryIO) -> object:
    """The object of the pickle that the seekable stream begins with, its arrays as PickledArray.

    Raises RefusedError, or whatever damaged bytes make of a pickle: the caller names the file.
    """
    _check_opcodes(stream)
    stream.seek(0)
    # Paddle reads its files with the same encoding: Python 2 wrote some of them.
    return ArrayUnpickler(stream, encoding="latin1").load()


def _check_opcodes(stream: BinaryIO) -> None:
    """Refuses what would cost more than its bytes: the unpickler makes a table as long as the highest index of a memo.

    Picklers count from 0, so no index is higher than there have been opcodes.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in _MEMO_WRITES and not 0 <= int(argument or 0) <= number:
            raise RefusedError(f"the index {argument} of its memo after {number} opcodes")
        if number >= MOST_OPCODES:
            raise pickle.UnpicklingError(f"more than {MOST_OPCODES} opcodes")
