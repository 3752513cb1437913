"""Request bodies are read and answers are written as by the stock gateway's Go (recorded/gateway.json)."""

import base64
import json
import math
import random
from pathlib import Path

import orjson
import pytest

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.answers import PipelineResponse, render
from service.contract.gateway import Route, failure
from service.contract.json_fields import unquoted
from service.contract.json_syntax import EndOfText, read_only_value, read_value
from service.contract.request import PipelineRequest, Tensor, parse_body, read_document, read_plain_body
from service.errors import MalformedRequestError

RECORDED = json.loads((Path(__file__).parent / "recorded" / "gateway.json").read_text(encoding="utf-8"))
BODIES = [row for row in RECORDED if "body" in row and "headers" not in row]
RESPONSES = [row for row in RECORDED if "response" in row]
ROUTE = Route("imagenet", "prediction")


def message_of(request):
    """The protobuf message of a parsed request, so that it can be compared with what the stock gateway sent."""
    tensors = [
        wire.Tensor(**{name: getattr(tensor, name) for name in Tensor.__dataclass_fields__})
        for tensor in request.tensors
    ]
    names = [name for name in PipelineRequest.__dataclass_fields__ if name != "tensors"]
    return wire.Request(**{name: getattr(request, name) for name in names}, tensors=tensors)


@pytest.mark.parametrize("row", BODIES, ids=lambda row: repr(row["body"]))
def test_every_body_is_taken_as_by_the_stock_gateway(row):
    body = row["body"].encode("latin-1")
    if row["status"] == 400:
        with pytest.raises(MalformedRequestError) as refused:
            parse_body(body, ROUTE)
        assert failure(refused.value).body == row["answer"].encode("latin-1")
        return
    sent = wire.Request.FromString(base64.b64decode(row["request"]))
    assert str(message_of(parse_body(body, ROUTE))) == str(sent)


@pytest.mark.parametrize("row", RESPONSES, ids=lambda row: repr(row["response"]))
def test_every_answer_is_written_as_by_the_stock_gateway(row):
    assert render(PipelineResponse(**row["response"])) == row["answer"].encode("latin-1")


def test_bytes_from_a_gzip_body_are_named_as_by_go():
    with pytest.raises(MalformedRequestError, match=r"^invalid character '\\x1f' looking for beginning of value$"):
        parse_body(b"\x1f\x8b\x08", ROUTE)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded_where_go_bounds_it(opening, closing):
    inner = b"1" if opening != b"[" else b""
    deepest = b'{"x":' + opening * 9999 + inner + closing * 9999 + b"}"
    assert parse_body(deepest, ROUTE) == PipelineRequest(name="imagenet", method="prediction", tensors=[])
    too_deep = rf"^invalid character '\{opening.decode()[0]}' exceeded max depth$"
    with pytest.raises(MalformedRequestError, match=too_deep):
        parse_body(b'{"x":' + opening * 10_000 + inner + closing * 10_000 + b"}", ROUTE)


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b"[[],", b'{"a":[],', b"[0,", b'[{"', b"\\", b'"\\u', b"[-", b"[1e"])
def test_a_large_hostile_body_is_refused_without_a_crash_or_a_hang(unit):
    body = b'{"x":' + unit * (2_000_000 // len(unit))
    with pytest.raises(MalformedRequestError):
        parse_body(body, ROUTE)


def test_a_body_of_very_many_values_is_refused_before_it_is_built():
    with pytest.raises(MalformedRequestError, match=r"^json: more than 400000 times \["):
        parse_body(b'{"x":[' + b"[]," * 500_000 + b"[]]}", ROUTE)


def test_a_long_list_with_an_odd_element_is_bounded():
    odd = b'{"tensors":[{"int_data":[' + b"1," * 60_000 + b'"1"]}]}'
    with pytest.raises(MalformedRequestError, match=r"^json: more than 50000 values in one list$"):
        parse_body(odd, ROUTE)


def test_long_plain_lists_are_taken():
    body = b'{"tensors":[{"uint32_data":[' + b"255," * 300_000 + b'1],"float_data":[' + b"0.5," * 300_000 + b"1]}]}"
    (tensor,) = parse_body(body, ROUTE).tensors
    assert (len(tensor.uint32_data), len(tensor.float_data)) == (300_001, 300_001)


def request_of(fields):
    tensors = [Tensor(**tensor) for tensor in fields.get("tensors", ())]
    return PipelineRequest(**{**fields, "tensors": tensors, "name": ROUTE.name, "method": ROUTE.method})


def test_the_fast_and_the_exact_reader_agree():
    bodies = [row["body"].encode("latin-1") for row in BODIES if row["status"] == 200]
    taken_fast = 0
    for body in bodies:
        fast = read_plain_body(body)
        taken_fast += fast is not None
        if fast is not None:
            assert str(message_of(request_of(fast))) == str(message_of(request_of(read_document(body))))
    assert taken_fast > 20


def random_json(dice, depth=0):
    kind = dice.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return dice.choice(["null", "true", "false"])
    if kind == 1:
        return dice.choice(["0", "-0", "1", "-12", "1.5", "1e3", "-2E-7", "0.0", "123456789012345678901234567890"])
    if kind <= 5:
        characters = ['"', "\\", "/", "\b", "\t", "é", "\u2028", "😀", "a", "<", "\x7f"]
        return json.dumps("".join(dice.choices(characters, k=dice.randrange(6))), ensure_ascii=dice.random() < 0.5)
    values = [random_json(dice, depth + 1) for _ in range(dice.randrange(4))]
    space = dice.choice(["", " ", "\n\t"])
    if kind == 6:
        return f"[{space}{(space + ',' + space).join(values)}{space}]"
    return "{" + space + f"{space},".join(f'"{number}"{space}:{value}' for number, value in enumerate(values)) + "}"


def test_what_is_json_to_others_ends_where_it_ends():
    dice = random.Random(20)
    for _ in range(3000):
        text = random_json(dice).encode()
        assert read_value(text + b" , ").end == len(text)
        if text.startswith(b"{"):
            assert read_value(text).end == len(text)


def test_texts_are_unquoted_as_other_json_readers_do():
    dice = random.Random(21)
    for _ in range(3000):
        text = random_json(dice)
        if text.startswith('"'):
            assert unquoted(text.encode()) == orjson.loads(text)


def test_no_mutilated_body_makes_anything_but_a_refusal_escape():
    dice = random.Random(22)
    seeds = [row["body"].encode("latin-1") for row in BODIES if len(row["body"]) > 8]
    outcomes = set()
    for _ in range(20_000):
        body = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(body) + 1)
            body[place : place + dice.randrange(3)] = dice.choice(
                [
                    b"",
                    b'"',
                    b"\\",
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"0",
                    b"-",
                    b"e",
                    b"\xff",
                    b"\x00",
                    b"null",
                    b"\\u",
                ]
            )
        try:
            outcomes.add(type(parse_body(bytes(body), ROUTE)))
        except MalformedRequestError:
            outcomes.add(MalformedRequestError)
    assert outcomes == {PipelineRequest, MalformedRequestError}


def not_json(constant):
    raise ValueError(constant)


def accepted(reader, text):
    try:
        return reader(text) is not None
    except (ValueError, MalformedRequestError, EndOfText):
        return False


def test_mutilated_json_is_accepted_exactly_if_another_strict_reader_accepts_it():
    dice = random.Random(23)
    for _ in range(20_000):
        text = random_json(dice)
        place = dice.randrange(len(text))
        damaged = text[:place] + dice.choice(["", '"', "\\", "}", "]", ",", "0", ".", "e", "-"])
        damaged = f"[{damaged}{text[place + dice.randrange(2) :]}]".encode()
        others = accepted(lambda body: json.loads(body, parse_constant=not_json), damaged)
        assert accepted(read_only_value, damaged) == others, damaged


def test_numbers_that_are_not_finite_come_as_text():
    (tensor,) = parse_body(b'{"tensors":[{"float_data":["NaN","Infinity","-Infinity"]}]}', ROUTE).tensors
    assert math.isnan(tensor.float_data[0])
    assert list(tensor.float_data[1:]) == [math.inf, -math.inf]


def test_absent_fields_are_left_to_the_defaults():
    for body in (b'{"key":null}', b"null", b"", b"{}"):
        assert read_document(body) == {}
