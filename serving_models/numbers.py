"""Numbers of a command line, within bounds that are named when they are not kept."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int) -> Callable[[str], int]:
    """For argparse's ``type``: a whole number from ``least`` to ``most``; no other is below the least."""

    def read(text: str) -> int:
        number = int(text) if text.isdecimal() and len(text) < 12 else least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: accepted is a whole number from {least} to {most}")
        return number

    return read


def real(text: str) -> float:
    """The number that a text is; not a number where it is none, which is within no bounds."""
    try:
        return float(text)
    except ValueError:
        return math.nan
