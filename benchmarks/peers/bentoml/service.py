"""BentoML: 2 * CORES workers (CORES were half idle) with adaptive batching. `bentoml serve service:Service`."""

from __future__ import annotations

import base64
from typing import Any

import bentoml
import numpy as np
from classifier import CORES, Classifier, crop, normalise


@bentoml.service(workers=2 * CORES)
class Service:
    def __init__(self) -> None:
        self.classifier = Classifier(threads=1)

    @bentoml.api(batchable=True, max_batch_size=8, route="/json")
    def classify(self, image: list[str]) -> list[dict[str, Any]]:
        return self.classifier.best(np.stack([normalise(crop(base64.b64decode(text))) for text in image]))
