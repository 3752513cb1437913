"""What a process of another user may not do, for tests that are often run as root."""

from __future__ import annotations

import contextlib
import os

NOBODY = 65534


@contextlib.contextmanager
def without_rights(folder):
    """As a user who may read the folder and not write into it."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
