"""What is measured: a real photograph, and a model whose weights are random because only time counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parents[1]
SAVE_RANDOM = """
import sys, paddle
from serving_models import network
paddle.seed(0)
paddle.save(network.build(sys.argv[1], 1000).state_dict(), sys.argv[2])
"""


def write_photograph(file: Path, *, width: int = 500, height: int = 375) -> Path:
    """scikit-learn's photograph of a temple, as an ordinary JPEG."""
    pixels = cv2.resize(load_sample_image("china.jpg")[:, :, ::-1], (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(file), pixels)
    return file


def export_random_model(folder: Path, variant: str, *, image_size: int) -> Path:
    """The ``serving_server`` folder of a model exported from random weights."""
    weights = folder / f"{variant}.pdparams"
    subprocess.run(
        [sys.executable, "-c", SAVE_RANDOM, variant, str(weights)], cwd=ROOT, check=True, capture_output=True
    )
    command = [sys.executable, "-m", "serving_models", "export", str(weights), "--to", str(folder)]
    subprocess.run(
        [*command, "--name", "random", "--image-size", str(image_size)], cwd=ROOT, check=True, capture_output=True
    )
    return folder / "random/serving_server"
