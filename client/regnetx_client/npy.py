"""Bytes -> the .npy file of a one-dimensional uint8 array, as ``numpy.save`` writes it; needs no NumPy."""

from __future__ import annotations

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNED = 64


def npy(data: bytes) -> bytes:
    """numpy/lib/format.py, "Format Version 1.0": a header that ends in a line feed, data from a multiple of 64 on."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % len(data)
    header += b" " * (-(len(_MAGIC) + 2 + len(header) + 1) % _ALIGNED) + b"\n"
    return b"".join((_MAGIC, len(header).to_bytes(2, "little"), header, data))
