"""What callers do with a connection: pipelines, offers of other protocols, heads without end. Raw sockets."""

from __future__ import annotations

import base64
import json

import pytest
from calling import connect, rest_of

from service.native.http_protocol import MAX_HEAD_BYTES
from serving_models.bundled.digits.held_out import held_out

DIGITS = [json.dumps({"key": ["a"], "value": [base64.b64encode(held_out().images[n]).decode()]}) for n in (0, 1, 2)]
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
CLOSE = "Connection: close\r\n"


def request(body, *headers):
    head = "".join(("POST /regnet/prediction HTTP/1.1\r\nHost: x\r\n", f"Content-Length: {len(body)}\r\n", *headers))
    return f"{head}\r\n{body}".encode()


def exchange(service, *packets):
    """All that is answered until the service closes the connection."""
    with connect(service.http) as caller:
        for packet in packets:
            caller.sendall(packet)
        return rest_of(caller)


def labels(answers):
    return [part.split('"]')[0] for part in answers.decode().split('"value":["[')[1:]]


@pytest.fixture(scope="module")
def expected(service):
    return [labels(exchange(service, request(digit, CLOSE)))[0] for digit in DIGITS]


def test_pipelined_requests_are_answered_in_their_order(service, expected):
    packet = b"".join(request(digit) for digit in DIGITS[:2]) + request(DIGITS[2], CLOSE)
    assert labels(exchange(service, packet)) == expected


@pytest.mark.parametrize("offer", [H2C, "Connection: upgrade\r\nUpgrade: websocket\r\n"], ids=["h2c", "websocket"])
def test_an_offer_of_another_protocol_is_declined_and_the_body_is_read(service, expected, offer):
    answers = exchange(service, request(DIGITS[1], offer) + request(DIGITS[2], CLOSE))
    assert labels(answers) == expected[1:]


def test_an_offer_whose_body_comes_later_is_declined_as_well(service, expected):
    packet = request(DIGITS[1], H2C)
    rest = packet[-len(DIGITS[1]) :]
    answers = exchange(service, request(DIGITS[0]) + packet[: -len(rest)], rest[:50], rest[50:], request("{}", CLOSE))
    assert labels(answers)[:2] == expected[:2]
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_a_tunnel_is_refused(service):
    assert exchange(service, b"CONNECT example:80 HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_head_that_does_not_end_is_431(service):
    packet = b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nX-Endless: "
    answer = exchange(service, packet + b"x" * (MAX_HEAD_BYTES + 1 - len(packet)))
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")


def test_trailers_that_do_not_end_are_not_read_for_ever(service):
    packet = b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    with connect(service.http) as caller, pytest.raises(ConnectionError):
        caller.sendall(packet)
        for _ in range(64):
            caller.sendall(b"x" * MAX_HEAD_BYTES)


def test_a_large_body_in_small_pieces_is_no_large_head(service, expected):
    spaces = " " * (2 * MAX_HEAD_BYTES)
    packet = request(DIGITS[0] + spaces, CLOSE)
    pieces = [packet[start : start + 50_000] for start in range(0, len(packet), 50_000)]
    assert labels(exchange(service, *pieces)) == expected[:1]
