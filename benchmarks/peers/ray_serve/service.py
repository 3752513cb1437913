"""Ray Serve: CORES replicas of one core, each with serve.batch. `python service.py PORT`."""

from __future__ import annotations

import base64
import sys
from typing import Any

import numpy as np
import ray
from classifier import CORES, Classifier, crop, normalise
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=CORES, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Service:
    def __init__(self) -> None:
        self.classifier = Classifier(threads=1)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0)
    async def classify(self, images: list[bytes]) -> list[dict[str, Any]]:
        return self.classifier.best(np.stack([normalise(crop(image)) for image in images]))

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.headers["content-type"] == "application/json":
            return await self.classify(base64.b64decode((await request.json())["value"][0]))
        return await self.classify(await request.body())


app = Service.bind()

if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(app, blocking=True)
