"""What the model says without any server, for tests that compare a service with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from running import ROOT


def probabilities(model: Path, images: Sequence[bytes], folder: Path, *, classes: int) -> list[list[float]]:
    """The probabilities of each image in the order of the classes, by the command that needs no server.

    A process of its own: Paddle is never loaded into one that speaks gRPC, neither here nor in the service.
    """
    files = [folder / f"{number}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    command = [sys.executable, "-m", "service", "predict", "--model", str(model), "--json", "--top-k", str(classes)]
    # By the reference: the repository's own configuration would measure engines, and keep its choice with the model.
    environment = os.environ | {"REGNETX__NATIVE__ENGINE": "paddle"}
    result = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    ranked = [json.loads(line)["top_k"] for line in result.stdout.splitlines()]
    assert len(ranked) == len(images)
    return [[entry["prob"] for entry in sorted(row, key=lambda entry: entry["class_id"])] for row in ranked]
