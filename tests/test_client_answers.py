"""The texts of an answer become predictions, or an error that quotes them."""

from __future__ import annotations

import json

import pytest
from client_calls import IMAGE, STOCK, mocked, texts

from regnetx_client import (
    Client,
    ProtocolError,
)


@pytest.mark.parametrize(
    ("label", "prob", "expected"),
    [
        ("['daisy']", "[0.9341402053833008]", ("daisy", 0.9341402053833008)),
        ("""['"jack-o-lantern"']""", "[1e-05]", ('"jack-o-lantern"', 1e-05)),
        ("""["potter's wheel"]""", "[1.0]", ("potter's wheel", 1.0)),
        ("['\\\\ \\n 雏菊']", "[inf]", ("\\ \n 雏菊", float("inf"))),
    ],
)
def test_labels_and_probabilities_are_read_as_python_prints_them(label: str, prob: str, expected: tuple) -> None:
    with Client("http://test", transport=texts(label, prob)) as client:
        (best,) = client.classify(IMAGE)
    assert (best.label, best.prob) == expected


def test_a_probability_that_is_not_a_number_is_told_as_such() -> None:
    with Client("http://test", transport=texts("['daisy']", "[nan]")) as client:
        (best,) = client.classify(IMAGE)
    assert best.prob != best.prob


@pytest.mark.parametrize(
    ("label", "prob"),
    [
        ("['a', 'b']", "[0.5, 0.5]"),
        ("[]", "[]"),
        ("['a']", "[0.5, 0.5]"),
        ("__import__('os').getcwd()", "[1.0]"),
        ("[1]", "[1.0]"),
        ("'a'", "[1.0]"),
        ("['a']", "1.0"),
        ("['a']", "[one]"),
        ("[" * 10000, "[1.0]"),
    ],
)
def test_other_texts_than_lists_of_the_right_length_are_refused(label: str, prob: str) -> None:
    with Client("http://test", transport=texts(label, prob)) as client, pytest.raises(ProtocolError):
        client.classify(IMAGE)


@pytest.mark.parametrize(
    "top_k",
    ["", "{}", "[]", "[[]]", "[1]", '[[{"label":"a"}]]', '[[{"class_id":1,"label":"a","prob":"x"}]]', "[[null]]"],
)
def test_a_top_k_that_is_no_list_of_predictions_is_refused(top_k: str) -> None:
    answer = {**STOCK, "key": ["label", "prob", "top_k"], "value": [*STOCK["value"], top_k]}
    with (
        Client("http://test", transport=mocked(200, json.dumps(answer).encode())) as client,
        pytest.raises(ProtocolError),
    ):
        client.classify(IMAGE)


def test_more_predictions_than_asked_are_cut() -> None:
    ranked = [{"class_id": i, "label": str(i), "prob": 0.1} for i in range(5)]
    answer = {**STOCK, "key": ["top_k"], "value": [json.dumps([ranked])]}
    with Client("http://test", transport=mocked(200, json.dumps(answer).encode())) as client:
        assert [best.class_id for best in client.classify(IMAGE, top_k=2)] == [0, 1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"err_no":0}',
        b'{"err_no":"x","err_msg":"","key":[],"value":[]}',
        b'{"err_no":0,"err_msg":"","key":[[]],"value":["a"]}',
        b'{"err_no":0,"err_msg":"","key":[],"value":[]}',
        b"\xff\xfe{}",
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_the_pipelines_is_a_protocol_error(body: bytes) -> None:
    with Client("http://test", transport=mocked(200, body)) as client, pytest.raises(ProtocolError):
        client.classify(IMAGE)


def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regnetx_client.http_messages.MOST_ANSWER_BYTES", 1000)
    with (
        Client("http://test", transport=mocked(200, b" " * 1001)) as client,
        pytest.raises(ProtocolError, match="longer than 1000 bytes"),
    ):
        client.classify(IMAGE)
