"""FastAPI + ONNX Runtime: an image a call, in the thread pool; no batching. `uvicorn service:app --workers CORES`."""

from __future__ import annotations

import base64
from typing import Any

from classifier import Classifier, crop, normalise
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

app = FastAPI()
classifier = Classifier(threads=1)  # a worker process for each core


class Body(BaseModel):
    """The JSON that all are asked with."""

    key: list[str]
    value: list[str]


def classify(encoded: bytes) -> dict[str, Any]:
    return classifier.best(normalise(crop(encoded))[None])[0]


@app.post("/json")
def classify_json(body: Body) -> dict[str, Any]:
    return classify(base64.b64decode(body.value[0]))


@app.post("/raw")
async def classify_raw(request: Request) -> dict[str, Any]:
    return await run_in_threadpool(classify, await request.body())
