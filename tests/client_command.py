"""Runs the command ``regnetx`` in a process of its own, and makes what it reads."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from client_servers import LABELS, class_of

COMMAND = [sys.executable, "-m", "regnetx_client"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path("client").resolve()),
    "PYTHONUNBUFFERED": "",  # as at a user's: what is not flushed is not written
    "COLUMNS": "80",
    "TERM": "xterm",
}


def photo_folder(parent: Path) -> Path:
    """Five images, one of them two folders down, and what is no image."""
    folder = parent / "photos"
    (folder / "more" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "c.webp", "more/deep/d.jpeg", "more/e.bmp"):
        (folder / name).write_bytes(name.encode())
    for name in ("notes.txt", ".hidden.jpg", "more/readme"):
        (folder / name).write_bytes(b"no image")
    return folder


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=60)


def label(name: str) -> str:
    return LABELS[class_of(name.encode())]


def refusing(*images: bytes) -> Callable:
    """Answers err_no 10000 to any request that holds one of these."""
    body = json.dumps({"err_no": 10000, "err_msg": "not an image", "key": [], "value": [], "tensors": []}).encode()
    texts = {base64.b64encode(image).decode() for image in images}
    return lambda values: (200, {}, body) if texts & set(values) else None
