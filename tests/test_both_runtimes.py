"""Clients of either side against servers of either side: nobody who moves has to change a client."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stock
from photographs import NAMES, photograph
from running import ROOT, Service, configuration, serving
from stock import last_line, output_of, post, stock_client, stock_configuration, stock_serving

from service.ops.decode import Limits, decode
from service.ops.model import load_model
from service.ops.preprocess import preprocess

pytestmark = pytest.mark.skipif(bool(stock.why_not()), reason=stock.why_not() or "it can")
DIGITS = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))
CLASSIFY = """
import json, sys
from regnetx_client import Client
from regnetx_client.grpc import GrpcClient
address, *paths = sys.argv[1:]
client = Client(address) if address.startswith("http") else GrpcClient(address)
with client:
    alone = [client.classify(path) for path in paths]
    batch = client.classify_batch(paths)
print(json.dumps([[[best.label, best.prob] for (best,) in answers] for answers in (alone, batch)]))
"""
Answers = list[list[list[Any]]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digits and photographs, as files."""
    folder = tmp_path_factory.mktemp("images")
    for name in NAMES:
        (folder / name).write_bytes(photograph(name))
    return [*map(str, DIGITS), *(str(folder / name) for name in NAMES)]


@pytest.fixture(scope="module")
def of_native(service: Service, images: list[str]) -> Answers:
    """What the native runtime answers to our own client by HTTP: each image alone, and all as a batch."""
    return json.loads(output_of([sys.executable, "-c", CLASSIFY, service.url, *images]))


def same(ours: Answers, others: Answers) -> bool:
    """The same labels, and the same scores within 1e-5."""
    for answers, references in zip(ours, others, strict=True):
        assert [label for label, _ in answers] == [label for label, _ in references]
        assert [prob for _, prob in answers] == pytest.approx([prob for _, prob in references], abs=1e-5)
    return True


@pytest.mark.parametrize("door", ["http", "rpc"])
def test_our_client_gets_from_stock_what_it_gets_from_the_native_runtime(stock_service, of_native, images, door):
    address = f"http://{stock_service.http}" if door == "http" else stock_service.rpc
    answers = json.loads(stock_service.ask([sys.executable, "-c", CLASSIFY, address, *images]))
    assert same(answers, of_native)
    assert len(answers[0]) == len(images) == 12


def of_text(answer: dict[str, Any]) -> list[list[Any]]:
    assert answer["err_no"] == 0, answer
    read = [json.loads(answer[key].replace("'", '"')) for key in ("label", "prob")]
    return [list(pair) for pair in zip(*read, strict=True)]


@pytest.mark.parametrize("runtime", ["native", "stock"])
def test_the_pipeline_client_of_stock_gets_the_same_from_both(service, stock_service, of_native, images, runtime):
    alone = [{"feed": {"image": path}, "options": {"log_id": number}} for number, path in enumerate(images)]
    batch = {"feed": {f"image_{number}": path for number, path in enumerate(images)}}
    requests = [*alone, batch]
    if runtime == "native":
        printed = output_of(stock_client(service.rpc, requests))
    else:
        printed = stock_service.ask(stock_client(stock_service.rpc, requests))
    *answers, together = [of_text(answer) for answer in last_line(printed)]
    assert same([[answer for (answer,) in answers], together], of_native)


def test_the_pipeline_client_may_send_tensors_and_ask_for_a_profile(service, images):
    options = ({"pack_tensor_format": True}, {"pack_tensor_format": True, "use_tensor_bytes": True}, {"profile": True})
    requests = [{"feed": {"image": images[0]}, "options": each} for each in options]
    answers = last_line(output_of(stock_client(service.rpc, requests)))
    assert [answer["label"] for answer in answers] == ["['eight']"] * 3


@pytest.mark.parametrize("value", ["bad", "aGVsbG8=", "", "iVBORw0KGgo="])
@pytest.mark.parametrize("good", [0, 2])
def test_plain_http_gets_the_same_bytes_from_both_for_what_is_no_image(service, stock_service, value, good):
    values = [base64.b64encode(DIGITS[0].read_bytes()).decode()] * good + [value]
    body = json.dumps({"key": ["a", "b", "c"][: len(values)], "value": values, "logid": 7})
    ours = output_of(post(service.prediction_url, body))
    assert stock_service.ask(post(f"http://{stock_service.http}/regnet/prediction", body)) == ours
    assert '"err_no":10000' in ours


@pytest.mark.parametrize("path", ["/other/prediction", "/regnet", "/regnet/prediction:x"])
def test_plain_http_gets_the_same_bytes_from_both_for_other_paths(service, stock_service, path):
    ours = output_of(post(f"{service.url}{path}", "{}"))
    assert stock_service.ask(post(f"http://{stock_service.http}{path}", "{}")) == ours


LOCAL_PREDICTOR = """
import json, sys
import numpy as np
from paddle_serving_app.local_predict import LocalPredictor
predictor = LocalPredictor()
predictor.load_model_config(sys.argv[1])
images = np.load(sys.argv[2])
scores = predictor.predict(feed={"x": images}, fetch=["prediction"], batch=True)["prediction"]
print(json.dumps(scores.tolist()))
"""


def test_the_local_predictor_of_stock_loads_an_exported_model(
    digits_model, tmp_path, service, of_native, images, monkeypatch
):
    model = load_model(digits_model)
    batch = np.empty((len(images), 3, model.height, model.width), np.float32)
    for path, out in zip(images, batch, strict=True):
        preprocess(decode(Path(path).read_bytes(), Limits()), model, out)
    np.save(tmp_path / "images.npy", batch)
    monkeypatch.setenv("SERVING_LOG_PATH", str(tmp_path))
    command = [str(stock.PYTHON), "-c", LOCAL_PREDICTOR, str(digits_model), str(tmp_path / "images.npy")]
    scores = np.array(last_line(output_of(command)))
    best = [[model.labels[row.argmax()], row.max()] for row in scores]
    assert same([best], of_native[:1])


def test_both_runtimes_answer_the_same_for_a_model_of_stocks_own_converter(digits_model, tmp_path, images):
    model = shutil.copytree(ROOT / "tests/recorded/converted", tmp_path / "Digits_serving")
    shutil.copy(digits_model / "inference.pdiparams", model / "serving_server")
    with serving(tmp_path, configuration(model)) as native:
        ours = json.loads(output_of([sys.executable, "-c", CLASSIFY, native.url, *images]))
    with stock_serving(tmp_path, stock_configuration(model)) as running:
        assert same(json.loads(running.ask([sys.executable, "-c", CLASSIFY, running.rpc, *images])), ours)
    assert {label for label, _ in ours[0]} <= set("0123456789")
