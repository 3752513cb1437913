"""The gateway answers what the stock gateway answered (recorded/gateway.json), byte for byte."""

import base64
import json
from pathlib import Path

import pytest

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.gateway import Answer, Route, failure, route, success, timeout_of
from service.contract.top_k import top_k_of, top_k_of_http
from service.errors import (
    DeadlineExceededError,
    MalformedRequestError,
    OverloadedError,
    RequestTooLargeError,
    UnavailableError,
)

RECORDED = json.loads((Path(__file__).parent / "recorded" / "gateway.json").read_text(encoding="utf-8"))
ROUTES = [row for row in RECORDED if "target" in row]
TIMEOUTS = [row for row in RECORDED if "Grpc-Timeout" in row.get("headers", {})]


def fields_of(row):
    """The recorded header fields, without what belongs to the connection and not to the answer."""
    ours_to_set = {"Content-Length", "Connection"}
    return {name.lower(): text for name, text in row["answer_headers"].items() if name not in ours_to_set}


def headers_of(answer):
    return {name.decode(): text.decode() for name, text in answer.headers if name != b"connection"}


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row['verb']} {row['target']}")
def test_every_target_is_answered_as_by_the_stock_gateway(row):
    found = route(row["verb"], row["target"].encode("latin-1"))
    if row["request"] is not None:
        request = wire.Request.FromString(base64.b64decode(row["request"]))
        assert (found.name, found.method) == (request.name, request.method)
        return
    assert isinstance(found, Answer)
    assert (found.status, headers_of(found)) == (row["status"], fields_of(row))
    assert row["verb"] == "HEAD" or found.body == row["answer"].encode("latin-1")


def test_the_content_length_of_a_head_answer_is_that_of_the_body_that_is_left_out():
    recorded = next(row for row in ROUTES if row["verb"] == "HEAD")
    assert str(len(route("HEAD", recorded["target"].encode()).body)) == recorded["answer_headers"]["Content-Length"]


def test_the_query_is_kept_for_the_top_k_extension():
    assert route("POST", b"/regnet/prediction?top_k=5") == Route("regnet", "prediction", b"top_k=5")


@pytest.mark.parametrize("row", TIMEOUTS, ids=lambda row: repr(row["headers"]["Grpc-Timeout"]))
def test_every_timeout_header_is_taken_as_by_the_stock_gateway(row):
    header = row["headers"]["Grpc-Timeout"].strip().encode("latin-1")
    if row["status"] == 400:
        with pytest.raises(MalformedRequestError) as refused:
            timeout_of(header)
        assert failure(refused.value).body == row["answer"].encode("latin-1")
        return
    timeout = timeout_of(header)
    assert row["status"] == (504 if timeout is not None and timeout < 1e-6 else 200)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"2H", 7200), (b"1M", 60), (b"10S", 10), (b"5000m", 5), (b"7u", 7e-6), (b"1n", 1e-9), (b"0S", None), (b"", None)],
)
def test_a_timeout_is_in_seconds(header, seconds):
    assert timeout_of(header) == seconds
    assert timeout_of(None) is None


def test_a_timeout_of_many_digits_is_refused_and_not_computed():
    with pytest.raises(MalformedRequestError, match=r"^invalid grpc-timeout: 111"):
        timeout_of(b"1" * 100_000 + b"S")


def test_a_passed_deadline_is_answered_as_by_the_stock_gateway():
    recorded = next(row for row in TIMEOUTS if row["status"] == 504)
    answer = failure(DeadlineExceededError("context deadline exceeded"))
    assert (answer.status, headers_of(answer)) == (504, fields_of(recorded))
    assert answer.body == recorded["answer"].encode()


def test_a_success_has_the_headers_of_the_stock_gateway():
    recorded = next(row for row in ROUTES if row["status"] == 200 and row["request"] is not None)
    assert success(b"{}").status == 200
    assert headers_of(success(b"{}")) == fields_of(recorded)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (MalformedRequestError("no"), 400, 3, False),
        (RequestTooLargeError("no"), 413, 8, False),
        (OverloadedError("no"), 429, 8, True),
        (UnavailableError("no"), 503, 14, True),
    ],
)
def test_failures_at_the_door_say_whether_to_come_again(error, status, code, retry):
    answer = failure(error)
    assert answer.status == status
    assert json.loads(answer.body) == {"error": "no", "code": code, "message": "no", "details": []}
    assert ((b"retry-after", b"1") in answer.headers) is retry


def test_the_unexpected_is_an_internal_error_that_tells_nothing():
    answer = failure(KeyError("a secret"))
    assert answer.status == 500
    assert json.loads(answer.body)["message"] == "internal error"


@pytest.mark.parametrize(("query", "header", "top_k"), [
    (b"", None, None),
    (b"top_k=5", None, 5),
    (b"a=1&top_k=1000&b", None, 1000),
    (b"top_k=1001", None, 1000),
    (b"top_k=3&top_k=4", None, 4),
    (b"top%5Fk=3", None, None),
    (b"", b"5", 5),
    (b"", b" 005 ", 5),
    (b"top_k=2", b"5", 2),
    (b"x_top_k=2", b"7", 7),
])  # fmt: skip
def test_top_k_comes_from_the_query_or_else_from_the_header(query, header, top_k):
    assert top_k_of_http(query, header, classes=1000) == top_k


@pytest.mark.parametrize("value", ["0", "-1", "+5", "5.0", "five", "", "1" * 5000, "٥", "²"])
def test_a_bad_top_k_is_refused_with_what_is_accepted(value):
    with pytest.raises(MalformedRequestError, match=r"is not a whole number from 1$") as refused:
        top_k_of(value, classes=1000)
    assert repr(value[:40]) in str(refused.value)
    assert len(str(refused.value)) < 120
