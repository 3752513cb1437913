"""The texts of an answer become predictions, or an error that quotes them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import httpx
import pytest
from client_calls import IMAGE, STOCK, async_batch, both, mocked, texts

from regnetx_client import (
    Client,
    Prediction,
    ProtocolError,
)
from regnetx_client.predictions import ranked
from regnetx_client.protocol import Question, question_for


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


MUCH = 3_000_000  # characters


def asked(images: int, top_k: int) -> Question:
    return question_for([IMAGE] * images, top_k)


def test_an_answer_may_have_a_mebibyte_and_8_kib_a_prediction_and_never_more_than_64_mib() -> None:
    assert asked(1, 1).most_answer_bytes == (1 << 20) + (8 << 10)
    assert asked(3, 5).most_answer_bytes == (1 << 20) + 15 * (8 << 10)
    assert asked(4, 10**12).most_answer_bytes == 64 << 20


@both
def test_an_endless_answer_is_not_kept(classify_batch: Callable) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        for _ in range(1 << 14):
            taken.append(1)
            yield b" " * (1 << 16)

    kind = httpx.AsyncByteStream if classify_batch is async_batch else httpx.SyncByteStream
    with pytest.raises(ProtocolError, match=r"longer than 1056768 bytes$"):
        classify_batch("http://test", [IMAGE], transport=streamed(kind, endless))
    assert len(taken) == 17


def streamed(kind: type, pieces: Callable[[], Iterator[bytes]]) -> httpx.MockTransport:
    class Body(kind):
        def __iter__(self) -> Iterator[bytes]:
            return pieces()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in pieces():
                yield piece

    return httpx.MockTransport(lambda request: httpx.Response(200, stream=Body()))


@pytest.mark.parametrize("around", ["[{}]", "['{}']", "['{}", "[{}"], ids=["list", "label", "open label", "open list"])
@pytest.mark.parametrize("piece", ["'',", "0,", "x", "\\x", "(", " ", "1"])
def test_a_hostile_text_takes_no_more_than_a_few_times_its_own_memory(piece: str, around: str) -> None:
    text = around.format(piece * (MUCH // len(piece)))
    tracemalloc.start()
    try:
        for values in ({"label": text, "prob": "[1.0]"}, {"label": "['a']", "prob": text}):
            with suppress(ProtocolError):
                assert ranked(values, 1) == [[Prediction("a", float("inf"))]]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(text)


def test_a_text_of_more_labels_than_images_is_read_no_further() -> None:
    with pytest.raises(ProtocolError, match="3 labels but 2 probabilities"):
        ranked({"label": "['a', 'b', 'c', no more]", "prob": "[0.5, 0.5]"}, 2)
