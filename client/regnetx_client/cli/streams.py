"""Standard input, output and error, also where whoever started the command has closed them."""

from __future__ import annotations

import os
import sys

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by the number of their descriptor


def open_missing_streams() -> None:
    """Open the null device for each that is closed: the next file or connection would get its number, and what is
    printed would be written into that."""
    for number, (name, mode) in enumerate(STREAMS):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
