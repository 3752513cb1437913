"""mosec: a stage that decodes, CORES processes; a stage that infers in dynamic batches, CORES processes."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from classifier import CORES, Classifier, crop, normalise
from mosec import Server, Worker


class Decode(Worker):
    def deserialize(self, data: bytes) -> bytes:
        return base64.b64decode(json.loads(data)["value"][0]) if data[:1] == b"{" else data

    def forward(self, data: bytes) -> np.ndarray:
        return np.ascontiguousarray(crop(data))


class Infer(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(threads=1)

    def forward(self, data: list[np.ndarray]) -> list[dict[str, Any]]:
        return self.classifier.best(np.stack([normalise(image) for image in data]))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=CORES)
    server.append_worker(Infer, num=CORES, max_batch_size=8, max_wait_time=1)
    server.run()
