"""Answers read as those of the stock server (recorded/service.json), through both doors."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from regnetx_client.wire import pipeline_service_pb2 as wire
from service import errors
from service.contract.answers import PipelineResponse, error_answer, in_band, render, respond, to_message
from service.contract.encoded_image import file_of
from service.contract.gateway import Route
from service.contract.request import parse_body
from service.contract.unpack import unpack
from service.errors import (
    DrainingError,
    EngineError,
    ImageError,
    MalformedRequestError,
    OpTimeoutError,
    RpcPackageError,
    ServiceError,
    ServiceNameError,
)
from service.ops.label import Prediction

RECORDED = json.loads((Path(__file__).parent / "recorded" / "service.json").read_text(encoding="utf-8"))
GOOD = [row for row in RECORDED if row["rpc"]["err_no"] == 0 and "tensors" not in row["fields"]]
# As in recorded/stock_service.py: an image's width chooses its label; prob is a float32 value
LABELS = ["tench,", "daisy", 'jack-o"-lantern', "it's, <b>&é"]
PROBS = [0.9341402053833008, 0.5, 1.0, 1.0000000116860974e-07]
PREPROCESS = "ClassName: Op._run_preprocess.<locals>.preprocess_help  FunctionName: preprocess_help"


def classified(image):
    index = Image.open(io.BytesIO(file_of(image))).size[0] % 4
    return [Prediction(index, LABELS[index], PROBS[index])]


def recorded(words):
    return next(row for row in RECORDED if words in row["rpc"]["err_msg"])


@pytest.mark.parametrize("row", GOOD, ids=lambda row: json.dumps(row["fields"])[:60])
def test_a_good_request_is_answered_byte_for_byte_as_by_stock(row):
    request = parse_body(json.dumps(row["fields"]).encode(), Route("imagenet", "prediction"))
    response = respond([classified(image) for image in unpack(request, "imagenet")])
    assert render(response) == row["answer"].encode("latin-1")
    assert to_message(response) == wire.Response(**row["rpc"])


@pytest.mark.parametrize(
    "label", ["it's", 'a "b"', "both ' and \"", "back\\slash", "é\u2028😀", "tab\t", " , spaces, "]
)
def test_labels_are_quoted_as_python_quotes_a_list(label):
    response = respond([[Prediction(0, label, 0.5)], [Prediction(0, "b", 0.25)]])
    assert response.value == (str([label.strip().replace(",", ""), "b"]), "[0.5, 0.25]")


def test_without_opt_in_there_are_the_two_stock_keys_only():
    ranked = [Prediction(3, "c", 0.5), Prediction(1, "a", 0.25)]
    assert respond([ranked]) == PipelineResponse(0, "", ("label", "prob"), ("['c']", "[0.5]"))


def test_top_k_is_a_third_key_of_json_in_request_order():
    ranked = [Prediction(3, "tench, Tinca tinca", 0.5), Prediction(1, "é", 0.25), Prediction(2, "b", 0.125)]
    response = respond([ranked, ranked[1:]], top_k=2)
    assert (response.key, response.value[:2]) == (
        ("label", "prob", "top_k"),
        ("['tench Tinca tinca', 'é']", "[0.5, 0.25]"),
    )
    assert response.value[2] == (
        '[[{"class_id":3,"label":"tench, Tinca tinca","prob":0.5},{"class_id":1,"label":"é","prob":0.25}],'
        '[{"class_id":1,"label":"é","prob":0.25},{"class_id":2,"label":"b","prob":0.125}]]'
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServiceNameError("Failed to inference: Service name error."), "Service name error"),
        (RpcPackageError("list index (1) out of range"), "list index (1)"),
        (ImageError("Incorrect padding"), "Incorrect padding"),
        (ImageError("'NoneType' object has no attribute 'shape'"), "NoneType object"),
    ],
)
def test_failures_are_told_in_the_sentences_of_stock(error, words):
    row = recorded(words)
    logid = row["fields"].get("logid", 0)
    assert to_message(in_band(error, logid, "imagenet")) == wire.Response(**row["rpc"])
    answer = error_answer(error, logid, "imagenet")
    assert (answer.status, answer.body) == (200, row["answer"].encode("latin-1"))


def test_an_op_that_times_out_is_told_as_by_stock_with_the_log_id_for_its_counter():
    stock = recorded("exceeded retry count")["rpc"]
    counter = int(re.search(r"log_id=(\d+)", stock["err_msg"])[1])
    response = in_band(OpTimeoutError("42 ms passed"), counter, "imagenet")
    assert (response.err_no, response.err_msg) == (stock["err_no"], stock["err_msg"])


def test_a_failing_engine_is_told_as_by_stock_with_the_log_id_for_its_counter():
    # As in operator.py without an op timeout; the recorded op had one, and no data_id in its sentence
    stock = recorded("engine")["rpc"]
    counter = int(re.search(r"log_id=(\d+)", stock["err_msg"])[1])
    response = in_band(EngineError("the 'engine' failed"), counter, "imagenet")
    assert response.err_no == stock["err_no"]
    assert response.err_msg == stock["err_msg"].replace("(log_id", f"(data_id={counter} log_id")


def test_a_stopping_service_says_so():
    assert in_band(DrainingError(), 7, "regnet") == PipelineResponse(err_no=3001, err_msg="dag closed.")


def test_the_log_id_is_in_the_sentence_of_a_bad_image():
    message = in_band(ImageError("key 'a': 5 bytes"), -4, "regnet").err_msg
    assert message == f"Log_id: -4  Raise_msg: key a: 5 bytes  {PREPROCESS}"


def test_braces_in_a_text_are_no_placeholders():
    assert in_band(RpcPackageError("{logid} {0}"), 1, "regnet").err_msg == "rpc package error: {logid} {0}"
    assert "{unquoted}" in in_band(ImageError("{unquoted}"), 1, "regnet").err_msg


def test_every_failure_is_answered_in_band_or_at_the_door_as_its_class_says():
    classes = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, ServiceError)]
    for error in [found("what is wrong") for found in classes if found is not ServiceError]:
        answer = error_answer(error, 5, "regnet")
        assert answer.status == error.http_status
        body = json.loads(answer.body)
        if error.err_no is None:
            assert (body["code"], body["message"]) == (error.grpc_code, "what is wrong")
        else:
            assert body["err_no"] == error.err_no
            assert body["err_msg"]


def test_a_kind_of_image_error_is_told_as_an_image_error():
    class TooManyPixelsError(ImageError):
        pass

    assert PREPROCESS in in_band(TooManyPixelsError("no"), 0, "regnet").err_msg


def test_a_text_that_utf8_cannot_carry_is_answered_all_the_same():
    for error in (RpcPackageError("a\ud800b"), MalformedRequestError("a\ud800b"), ImageError("\udcff😀")):
        assert "\ufffd" in error_answer(error, 0, "regnet").body.decode()
    assert to_message(in_band(RpcPackageError("a\ud800b"), 0, "x")).err_msg == "rpc package error: a\ufffdb"


def test_an_unexpected_exception_is_an_internal_error():
    answer = error_answer(ZeroDivisionError("secret"), 0, "regnet")
    assert answer.status == 500
    assert b"secret" not in answer.body
