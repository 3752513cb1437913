"""What is measured: a real photograph, and a model whose weights are random because only time counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_image

from service.ops.model import load_model, onnx_file

ROOT = Path(__file__).parents[1]
STOCK_PYTHON = ROOT / ".venv-stock/bin/python"
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


def quantise_with_noise(model: Path) -> None:
    """Give a model its int8 form. It is as fast as with other images; what random weights answer means nothing."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(8):
            cv2.imwrite(str(Path(folder, f"{number}.png")), random.integers(0, 256, (256, 256, 3), np.uint8))
        command = [sys.executable, "-m", "serving_models", "quantize", str(model.parent), "--images", folder, "--force"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def describe_for_peers(model: Path) -> Path:
    """A JSON file beside ``serving_server``: the ONNX model and how it is fed, for benchmarks/peers/classifier.py."""
    facts = load_model(model)
    keys = ("input_name", "height", "width", "resize_short", "scale", "mean", "std", "labels")
    file = model.parent / "peer.json"
    values = {key: getattr(facts, key) for key in keys}
    file.write_text(json.dumps(values | {"onnx": str(onnx_file(facts, engine="a peer").resolve())}))
    return file


def labels_of(image: Path, model: Path, *, top_k: int = 5) -> list[str]:
    """The best labels of an image, by the reference engine and without a server."""
    command = [sys.executable, "-m", "service", "predict", str(image), "--model", str(model), "--json"]
    settings = os.environ | {"REGNETX__NATIVE__ENGINE": "paddle"}
    done = subprocess.run(
        [*command, "--top-k", str(top_k)], cwd=ROOT, check=True, capture_output=True, text=True, env=settings
    )
    return [prediction["label"] for prediction in json.loads(done.stdout)["top_k"]]
