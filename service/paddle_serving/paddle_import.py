"""Paddle's import -> the same, tried again where its question to the shell came back empty."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress

TRIES = 3


def import_paddle() -> None:
    """Import Paddle before stock does, which gives up at the first failure and kills its whole process group.

    ``paddle.base.core`` asks ``ldd --version`` for the C library's version and fails with ``ValueError`` where that
    prints nothing, as was seen in CI. It asks before it loads a library, so what Python has loaded by then can be
    forgotten. What fails the last time is left for stock to say.

    Not safe while another thread imports Paddle.
    """
    for _ in range(TRIES):
        with suppress(ValueError):
            importlib.import_module("paddle")
            return
        for name in [name for name in sys.modules if name.partition(".")[0] == "paddle"]:
            del sys.modules[name]
