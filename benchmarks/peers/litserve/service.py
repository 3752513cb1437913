"""LitServe: CORES workers, each decodes and infers in batches of up to 8."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np
from classifier import CORES, Classifier, crop, normalise


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(threads=1)

    def decode_request(self, request) -> np.ndarray:
        return normalise(crop(base64.b64decode(request["value"][0])))

    def predict(self, inputs: np.ndarray) -> list[dict[str, Any]]:
        return self.classifier.best(inputs)

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.001, api_path="/json")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
