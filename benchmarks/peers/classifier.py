"""What every peer does with an image: JPEG -> the model's input -> label. The same steps as the service, and no server.

The environment says what to serve: PEER_MODEL, a JSON file that benchmarks.models writes; PEER_CORES, the cores to use.
"""

from __future__ import annotations

import json
import os
from typing import Any

import cv2
import numpy as np
import onnxruntime

CORES = int(os.environ["PEER_CORES"])
with open(os.environ["PEER_MODEL"], encoding="utf-8") as file:
    FACTS: dict[str, Any] = json.load(file)
SHORT, HEIGHT, WIDTH = FACTS["resize_short"], FACTS["height"], FACTS["width"]
# One table a channel: what (x / 255 - mean) / std makes of each of the 256 values.
_SCALED = np.arange(256).astype(np.float32) * np.float32(FACTS["scale"])
TABLES = [(_SCALED - np.float32(mean)) / np.float32(std) for mean, std in zip(FACTS["mean"], FACTS["std"], strict=True)]

# The server has a process or thread for each core already.
cv2.setNumThreads(1)


def crop(encoded: bytes) -> np.ndarray:
    """(height, width, 3) uint8, RGB: short side resized, centre cropped. Raises ValueError for what is no image."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("not an image")
    height, width = image.shape[:2]
    ratio = SHORT / min(height, width)
    image = cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - HEIGHT) // 2, (image.shape[1] - WIDTH) // 2
    return image[top : top + HEIGHT, left : left + WIDTH]


def normalise(image: np.ndarray) -> np.ndarray:
    """(3, height, width) float32, the model's input of one image."""
    return np.stack([cv2.LUT(plane, table) for plane, table in zip(cv2.split(image), TABLES, strict=True)])


class Classifier:
    """The ONNX model in one ONNX Runtime session."""

    def __init__(self, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(FACTS["onnx"], options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def best(self, inputs: np.ndarray) -> list[dict[str, Any]]:
        """Label and score of each row of (n, 3, height, width) float32."""
        scores = self._session.run([self._output], {self._input: inputs})[0]
        classes = scores.argmax(axis=1)
        return [
            {"label": FACTS["labels"][index], "prob": float(row[index])}
            for index, row in zip(classes, scores, strict=True)
        ]
