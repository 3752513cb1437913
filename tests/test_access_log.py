"""What is said of single requests: a line in the log, an id, and times in the answer; nothing where nobody asked."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import os
import re
import signal

import grpc
import pytest
from calling import BODY, METHOD, TEXT
from running import quick, serving, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.config import Native
from service.native.access_log import Times, request_id_of
from service.native.logs import JsonFormatter

PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
STATIONS = ["read", "queue", "decode", "preprocess", "engine", "label"]
TIMING = re.compile(", ".join(rf"{station};dur=(\d+\.\d+)" for station in [*STATIONS, "total"]))


class Talking:
    """A running service and what it has written on standard error."""

    def __init__(self, service, log):
        self.service, self._log = service, log

    def lines(self):
        return self._log.read_text(encoding="utf-8").splitlines()

    def line_of(self, text):
        """The one line that holds ``text``, once it is there."""
        wait_for(lambda: any(text in line for line in self.lines()))
        [line] = [line for line in self.lines() if text in line]
        return line

    def post(self, body=BODY, **headers):
        connection = http.client.HTTPConnection(self.service.http, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/regnet/prediction", body, headers)
            answer = connection.getresponse()
            return answer, answer.read()

    def call(self, packet=PACKET, **metadata):
        """The answer's trailing metadata."""
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        with grpc.insecure_channel(self.service.rpc) as channel:
            _, call = channel.unary_unary(METHOD).with_call(packet, timeout=30, metadata=pairs)
            return dict(call.trailing_metadata())


@contextlib.contextmanager
def talking(folder, model, **native):
    with serving(folder, quick(model, native=native), log=folder / "log") as service:
        yield Talking(service, service.log)


@pytest.fixture(scope="module")
def talkative(digits_model, tmp_path_factory):
    with talking(
        tmp_path_factory.mktemp("talkative"), digits_model, access_log=True, server_timing=True, log_format="json"
    ) as running:
        yield running


def test_a_request_is_one_line_of_json_with_the_id_that_its_caller_gave(talkative):
    answer, _ = talkative.post(**{"X-Request-Id": "order-7/a"})
    assert answer.headers["X-Request-Id"] == "order-7/a"
    line = json.loads(talkative.line_of("order-7/a"))
    assert line["level"] == "info" and line["logger"] == "regnetx.access"
    assert (line["door"], line["outcome"], line["images"], line["bytes"]) == ("http", "answered", 1, len(BODY))
    assert line["peer"] == "127.0.0.1"
    assert all(line[station] >= 0 for station in STATIONS)
    assert line["decode"] > 0 and line["engine"] > 0
    assert line["ms"] >= line["decode"] + line["preprocess"] + line["engine"]
    assert TEXT[:40] not in json.dumps(line)


def test_the_times_are_in_the_answer(talkative):
    answer, _ = talkative.post()
    *stations, total = map(float, TIMING.fullmatch(answer.headers["Server-Timing"]).groups())
    assert 0 < sum(stations) <= total + 0.1
    assert TIMING.fullmatch(talkative.call()["server-timing"])


def test_a_request_without_an_id_gets_one(talkative):
    answer, _ = talkative.post()
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-Id"])
    talkative.line_of(answer.headers["X-Request-Id"])


def test_grpc_does_the_same(talkative):
    metadata = talkative.call(x_request_id="order-8")
    assert metadata["x-request-id"] == "order-8"
    line = json.loads(talkative.line_of("order-8"))
    assert (line["door"], line["outcome"], line["bytes"]) == ("grpc", "answered", len(PACKET))
    assert "127.0.0.1" in line["peer"]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [(b'{"key":["a"],"value":["AAAA"]}', "bad_image"), (b"{", "bad_request"), (b'{"key":["a"]}', "bad_request")],
)
def test_a_refused_request_is_a_line_as_well(talkative, body, outcome):
    answer, _ = talkative.post(body, **{"X-Request-Id": f"refused-{outcome}-{len(body)}"})
    line = json.loads(talkative.line_of(answer.headers["X-Request-Id"]))
    assert line["outcome"] == outcome


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'quote"', "ünï"])
def test_what_is_no_id_is_not_repeated(talkative, given):
    answer, _ = talkative.post(**{"X-Request-Id": given.encode()})
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-Id"])


def test_every_line_is_json_those_of_the_supervisor_too(talkative):
    [engine] = talkative.service.children()["engine"]
    os.kill(engine, signal.SIGKILL)
    line = json.loads(talkative.line_of("engine 0 was ended by SIGKILL"))
    assert (line["logger"], line["level"]) == ("regnetx.supervisor", "error")
    assert [json.loads(line)["level"] for line in talkative.lines()]


def test_without_those_settings_nothing_is_added_and_an_id_comes_back(digits_model, tmp_path):
    with talking(tmp_path, digits_model) as running:
        plain, _ = running.post()
        named, _ = running.post(**{"X-Request-Id": "order-9"})
        assert not {"X-Request-Id", "Server-Timing"} & set(plain.headers)
        assert named.headers["X-Request-Id"] == "order-9" and "Server-Timing" not in named.headers
        assert running.call() == {}
        assert running.call(x_request_id="order-9") == {"x-request-id": "order-9"}
        assert not [line for line in running.lines() if "access" in line]


def test_text_is_one_line_and_a_level_silences_it(digits_model, tmp_path):
    with talking(tmp_path, digits_model, access_log=True) as running:
        running.post(**{"X-Request-Id": "order-10"})
        line = running.line_of("order-10")
        assert "INFO regnetx.access" in line and "outcome=answered images=1" in line
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    with talking(quiet, digits_model, access_log=True, log_level="warning") as running:
        running.post()
        running.call()
    assert running.lines() == []


def test_an_exception_is_one_line_of_json():
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "it %s", ("failed",), (ValueError, error, None))
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it failed" and "second" in json.loads(line)["exception"]


def test_of_several_images_the_slowest_at_a_station_counts():
    times = Times()
    times.of_image(0.001, 0.005, 0.002)
    times.of_image(0.002, 0.003, 0.001)
    assert times.milliseconds() == {
        "read": 0, "queue": 2.0, "decode": 5.0, "preprocess": 2.0, "engine": 0, "label": 0,
    }  # fmt: skip


def test_ids():
    assert request_id_of("a", needed=False) == "a"
    assert request_id_of(None, needed=False) is None
    assert request_id_of("a\r\nb: c", needed=False) is None
    assert request_id_of(None, needed=True) != request_id_of(None, needed=True)


def test_the_settings_are_off_where_they_are_absent():
    assert (Native().access_log, Native().server_timing, Native().log_format) == (False, False, "text")


def test_bytes_of_an_upload_are_counted(talkative):
    picture = base64.b64decode(TEXT)
    talkative.post(picture, **{"X-Request-Id": "upload", "Content-Type": "image/png"})
    assert json.loads(talkative.line_of('"upload"'))["bytes"] == len(picture)
