"""Thousands of requests of every kind at once, through both doors: each answer must belong to its own request."""

from __future__ import annotations

import asyncio
import base64
import json
import random

import grpc
import httpx
import numpy as np
import pytest
from offline import probabilities
from running import configuration, quick, serving

from regnetx_client.wire import pipeline_service_pb2 as wire
from serving_models.bundled.digits.held_out import held_out

REQUESTS = 1500  # of each shape
IN_FLIGHT = 48
CLASSES = 10
METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"


@pytest.fixture(scope="module")
def expected(digits_model, tmp_path_factory):
    """Images that can be told apart by their scores: (PNG bytes, log scores (classes,)) of each."""
    images = held_out().images[:120]
    chosen: list[tuple[bytes, np.ndarray]] = []
    rows = probabilities(digits_model, images, tmp_path_factory.mktemp("storm"), classes=CLASSES)
    for image, row in zip(images, rows, strict=True):
        scores = logarithms(row)
        if all(np.abs(scores - other).max() > 0.5 for _, other in chosen):
            chosen.append((image, scores))
    assert len(chosen) > 50
    return chosen


def logarithms(scores):
    return np.log(np.maximum(scores, 1e-6))


def draw(generator, expected):
    """(kind, numbers of the images that are asked for)."""
    kind = generator.choice(["single", "single", "batch", "broken", "text"])
    count = {"single": 1, "text": 1, "batch": generator.randint(2, 12), "broken": generator.randint(1, 4)}[kind]
    return kind, [generator.randrange(len(expected)) for _ in range(count)]


def texts_of(kind, numbers, expected):
    texts = [base64.b64encode(expected[number][0]).decode() for number in numbers]
    if kind == "broken":
        texts[-1] = texts[-1][: len(texts[-1]) // 2 // 4 * 4]
    return texts


def check(kind, numbers, expected, answer):
    """``answer``: (err_no, err_msg, key, value) of one request."""
    number, message, key, value = answer
    if kind == "broken":
        assert number == 10000 and "PNG" in message, message
        return
    assert number == 0, message
    rows = json.loads(value[list(key).index("top_k")])
    assert len(rows) == len(numbers)
    for asked, row in zip(numbers, rows, strict=True):
        scores = logarithms([entry["prob"] for entry in sorted(row, key=lambda entry: entry["class_id"])])
        assert np.abs(scores - expected[asked][1]).max() < 0.25


async def by_http(client, keys, texts):
    body = json.dumps({"key": keys, "value": texts})
    response = await client.post("/regnet/prediction", content=body, headers={"X-Top-K": str(CLASSES)})
    assert response.status_code == 200, response.text
    return list(response.json().values())[:4]


async def by_grpc(method, keys, texts):
    request = wire.Request(key=keys, value=texts)
    answer = await method(request, metadata=[("x-top-k", str(CLASSES))], timeout=60)
    return answer.err_no, answer.err_msg, answer.key, answer.value


@pytest.mark.parametrize(
    ("configured", "shape"),
    [
        (configuration, {}),
        (quick, {"build_dag_each_worker": True, "worker_num": 2, "op": {"concurrency": 2}, "local": {"thread_num": 2}}),
    ],
    ids=["one of each, Paddle", "two frontends, two engines, ONNX Runtime"],
)
async def test_every_answer_belongs_to_its_own_request(digits_model, tmp_path, expected, configured, shape):
    generator = random.Random(7)
    requests = [draw(generator, expected) for _ in range(REQUESTS)]
    slots = IN_FLIGHT * 12  # enough that nothing is refused
    answered = 0
    with serving(tmp_path, configured(digits_model, native={"slots": slots}, **shape)) as service:
        queue = iter(enumerate(requests))
        limits = httpx.Limits(max_connections=IN_FLIGHT)
        async with (
            httpx.AsyncClient(base_url=service.url, limits=limits, timeout=60) as client,
            grpc.aio.insecure_channel(service.rpc) as channel,
        ):
            method = channel.unary_unary(METHOD, wire.Request.SerializeToString, wire.Response.FromString)

            async def work():
                nonlocal answered
                for index, (kind, numbers) in queue:
                    keys = [f"image_{position}" for position in range(len(numbers))]
                    texts = texts_of(kind, numbers, expected)
                    answer = await (by_http(client, keys, texts) if index % 2 else by_grpc(method, keys, texts))
                    check(kind, numbers, expected, answer)
                    answered += 1

            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        assert answered == REQUESTS
        assert service.stop() == 0
