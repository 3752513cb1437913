"""Memory that C libraries have freed -> back to the system."""

from __future__ import annotations

import ctypes

# Pixels of an image from which on memory counts for more than the tenth of a millisecond that being sparing costs.
LARGE = 4_000_000

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


def give_back(pixels: int) -> None:
    """After an image of so many pixels, if that is large: return what glibc keeps of memory that was freed.

    glibc itself returns only what lies above everything that is in use, and no less than tens of megabytes.
    """
    if pixels >= LARGE and _trim is not None:
        _trim(0)
