"""Images as they are, by HTTP and gRPC, at a running service: the same answers as for base64, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket

import grpc
import httpx
import pytest
from calling import METHOD
from forms import FORM, form, part
from image_files import FILES
from photographs import encode, picture
from running import quick, serving, wait_for
from scraping import ADMIN, Scrape

from regnetx_client.wire import pipeline_service_pb2 as wire
from serving_models.bundled.digits.held_out import held_out

DIGITS = held_out().images[:4]
DIGIT = DIGITS[0]
OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def narrow(digits_model, tmp_path_factory):
    """Few slots and small limits, and metrics."""
    limits = {"slots": 4, "max_body_bytes": 65536, "max_image_bytes": 20000, "max_image_pixels": 10000}
    config = quick(digits_model, native=limits, dag=ADMIN)
    with serving(tmp_path_factory.mktemp("narrow"), config) as running:
        yield running


def post(service, body, content_type, path=None, **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"{service.url}{path or '/regnet/prediction'}",
        content=body,
        headers={**({"content-type": content_type} if content_type else {}), **given},
        timeout=30,
    )


def by_base64(service, *files, path=None):
    keys = [f"image_{index}" for index in range(len(files))]
    values = [base64.b64encode(file).decode() for file in files]
    return post(service, json.dumps({"key": keys, "value": values}), None, path)


# --- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_as_the_body_is_answered_as_its_base64_is(service, name):
    path = "/regnet/prediction?top_k=10"
    whole = by_base64(service, FILES[name], path=path)
    raw = post(service, FILES[name], f"image/{name.split()[0].lower()}", path)
    assert whole.json()["err_no"] == 0
    assert (raw.status_code, raw.content) == (200, whole.content)
    in_form = post(service, form(part(FILES[name])), FORM, path)
    assert (in_form.status_code, in_form.content) == (200, whole.content)


def test_the_type_need_not_be_that_of_the_file_and_the_header_asks_for_top_k_too(service):
    answer = post(service, DIGIT, "image/jpeg", x_top_k="3").json()
    assert len(json.loads(answer["value"][2])[0]) == 3
    assert answer["value"][0] == by_base64(service, DIGIT).json()["value"][0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Raise_msg: empty  ClassName"),
        (b"hello", "5 bytes, but not an image we can read (accepted: JPEG, PNG, WebP, BMP, GIF)"),
        (FILES["JPEG"][:-30], "JPEG truncated"),
        (DIGIT[:-20], "PNG truncated"),
    ],
)
def test_what_is_no_image_is_told_so_in_band_as_for_base64(service, body, message):
    answer = post(service, body, OCTETS)
    assert (answer.status_code, answer.json()["err_no"]) == (200, 10000)
    assert message in answer.json()["err_msg"]
    assert answer.content == by_base64(service, body).content


def test_another_service_name_is_err_no_3002(service):
    assert post(service, DIGIT, OCTETS, "/imagenet/prediction").json()["err_no"] == 3002


def test_json_under_the_type_of_an_image_is_still_json(service):
    body = json.dumps({"key": ["image"], "value": [base64.b64encode(DIGIT).decode()]})
    expected = post(service, body, None).content
    for content_type in ("image/jpeg", OCTETS, FORM, "application/x-www-form-urlencoded"):
        assert post(service, body, content_type).content == expected


@pytest.mark.parametrize(
    ("content_type", "headers", "message"),
    [
        ("image/tiff", {}, "Content-Type 'image/tiff' is not taken (accepted: image/jpeg, image/png"),
        ("image/png", {"content_encoding": "gzip"}, "Content-Encoding 'gzip' is not taken (accepted: identity)"),
    ],
)
def test_what_is_not_taken_is_415_and_says_what_is(service, content_type, headers, message):
    answer = post(service, DIGIT, content_type, **headers)
    assert answer.status_code == 415
    assert answer.json()["error"].startswith(message)
    assert answer.json()["code"] == 3
    assert OCTETS in answer.headers["accept-post"]


def test_only_callers_that_use_what_stock_has_not_are_told_what_they_may_send(service):
    body = json.dumps({"key": ["image"], "value": [base64.b64encode(DIGIT).decode()]})
    assert "accept-post" not in post(service, body, "application/json").headers
    assert "accept-post" not in post(service, body, None, "/regnet/prediction?top_k=2").headers
    for answer in (
        post(service, body, None, x_top_k="1"),
        post(service, DIGIT, "image/png"),
        post(service, form(), FORM),
    ):
        assert {"application/json", "image/webp", OCTETS, "multipart/form-data"} <= set(
            answer.headers["accept-post"].split(", ")
        )


def test_other_verbs_are_405_as_before(service):
    for verb in ("GET", "PUT", "HEAD"):
        answer = httpx.request(verb, service.prediction_url, headers={"content-type": "image/png"})
        assert answer.status_code == 405
        assert "accept-post" not in answer.headers


def test_a_file_may_come_in_chunks(service):
    pieces = iter([DIGIT[:1], DIGIT[1:50], DIGIT[50:]])
    answer = httpx.post(service.prediction_url, content=pieces, headers={"content-type": "image/png"})
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.content == by_base64(service, DIGIT).content


def test_a_caller_that_waits_for_100_continue_is_told_to_go_on(service):
    host, port = service.http.split(":")
    head = f"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(DIGIT)}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as caller, caller.makefile("rb") as answers:
        caller.sendall(head.encode() + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
        caller.sendall(DIGIT)
        assert answers.read().endswith(by_base64(service, DIGIT).content)


# --- a form ----------------------------------------------------------------------------------------------------------


def test_the_files_of_a_form_are_a_batch_in_order(service):
    parts = [part(digit, "photos", f"{index}.png") for index, digit in enumerate(DIGITS)]
    answer = post(service, form(*parts), FORM, x_top_k="2")
    assert answer.json()["value"][0] == by_base64(service, *DIGITS).json()["value"][0]
    assert len(json.loads(answer.json()["value"][2])) == len(DIGITS)


def test_what_a_library_makes_of_files_is_read(service):
    answer = httpx.post(service.prediction_url, files=[("a", ("ü.png", DIGITS[1])), ("b", ("b.png", DIGITS[2]))])
    assert answer.json()["value"] == by_base64(service, *DIGITS[1:3]).json()["value"]


def test_of_several_files_the_bad_one_is_named(service):
    named = post(service, form(part(DIGIT, "good"), part(b"hello", "bad")), FORM).json()
    assert "(key bad)" in named["err_msg"]
    same = [part(DIGIT, "photos", "a.png"), part(b"hello", "photos", "b.png")]
    assert "(key photos[1] b.png)" in post(service, form(*same), FORM).json()["err_msg"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "multipart/form-data: Unexpected end of multipart stream"),
        (form(part(DIGIT))[:-20], "multipart/form-data: Unexpected end of multipart stream"),
        (form(part(b"5", "top_k", None)), "multipart/form-data: part 'top_k' is no file"),
        (form(*[part(b"x")] * 5000), "multipart/form-data: Maximum segment count exceeded (at most 4096 parts"),
    ],
)
def test_a_form_that_is_not_right_is_400_and_says_why(service, body, message):
    answer = post(service, body, FORM)
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    assert answer.json()["error"].startswith(message)


def test_a_form_with_more_files_than_slots_is_told_so_in_band(service):
    answer = post(service, form(*[part(DIGIT)] * 129), FORM).json()
    assert (answer["err_no"], answer["err_msg"]) == (
        8000,
        "rpc package error: 129 images in one request, at most 128 accepted",
    )


def test_a_large_form_is_read_beside_others(service):
    photograph = encode(picture(1600, 1200), "BMP")  # 5.8 MB
    answer = post(service, form(part(photograph, "a"), part(DIGIT, "b")), FORM)
    assert answer.json()["value"] == by_base64(service, photograph, DIGIT).json()["value"]


# --- limits and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [OCTETS, FORM])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413(narrow, content_type, chunked):
    connection = http.client.HTTPConnection(narrow.http, timeout=30)
    with contextlib.closing(connection):
        body = iter([b"x" * 70000]) if chunked else b"x" * 70000
        connection.request("POST", "/regnet/prediction", body, {"content-type": content_type}, encode_chunked=chunked)
        response = connection.getresponse()
        assert response.status == 413
        assert b"at most 65536 accepted" in response.read()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 21000, "21008 bytes, at most 20000 accepted"),
        (encode(picture(200, 100), "JPEG"), "200x100 pixels, at most 10000 accepted"),
    ],
    ids=["bytes", "pixels"],
)
def test_an_image_that_is_too_large_is_told_so_in_every_form(narrow, file, message):
    answers = [
        post(narrow, file, "image/png"),
        post(narrow, form(part(file)), FORM),
        by_base64(narrow, file),
    ]
    assert all(answer.json()["err_no"] == 10000 and message in answer.json()["err_msg"] for answer in answers)


def test_uploads_are_counted_by_how_they_end(narrow):
    def outcomes():
        found = Scrape(narrow)
        return found.requests("http"), found("regnetx_images_total", format="png")

    wait_for(lambda: not Scrape(narrow)("regnetx_requests_in_flight", door="http"))
    before, images = outcomes()
    post(narrow, DIGIT, "image/png")
    post(narrow, form(part(DIGIT), part(DIGIT)), FORM)
    post(narrow, b"hello", OCTETS)
    post(narrow, b"hello", FORM)
    post(narrow, DIGIT, "image/tiff")

    def differences():
        return {name: number - before.get(name, 0) for name, number in outcomes()[0].items()}

    expected = {"answered": 2, "bad_image": 1, "bad_request": 2}
    wait_for(lambda: {name: number for name, number in differences().items() if number} == expected)
    assert outcomes()[1] - images == 3


# --- gRPC ------------------------------------------------------------------------------------------------------------


def infer(channel, request, metadata=()):
    method = channel.unary_unary(METHOD, wire.Request.SerializeToString, wire.Response.FromString)
    response, call = method.with_call(request, timeout=30, metadata=metadata)
    return response, dict(call.trailing_metadata())


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP lossy", "BMP", "GIF"])
def test_the_bytes_of_a_tensor_may_be_the_file(service, name):
    file = FILES[name]
    with grpc.insecure_channel(service.rpc) as channel:
        by_text, _ = infer(channel, wire.Request(key=["image"], value=[base64.b64encode(file).decode()]))
        tensor = wire.Tensor(name="image", elem_type=13, byte_data=file)
        by_bytes, _ = infer(channel, wire.Request(tensors=[tensor]))
    assert (by_bytes.err_no, by_bytes) == (0, by_text)


def test_bytes_that_are_neither_an_image_nor_an_array_are_refused(service):
    with grpc.insecure_channel(service.rpc) as channel:
        answer, _ = infer(channel, wire.Request(tensors=[wire.Tensor(name="a", elem_type=13, byte_data=b"hello")]))
        assert answer.err_no == 8000
        cut, _ = infer(channel, wire.Request(tensors=[wire.Tensor(name="a", elem_type=13, byte_data=DIGIT[:-20])]))
        assert (cut.err_no, "PNG truncated" in cut.err_msg) == (10000, True)


def test_only_callers_that_ask_for_top_k_are_told_that_bytes_are_taken(service):
    request = wire.Request(key=["image"], value=[base64.b64encode(DIGIT).decode()])
    with grpc.insecure_channel(service.rpc) as channel:
        assert "x-accepts-bytes" not in infer(channel, request)[1]
        assert infer(channel, request, [("x-top-k", "1")])[1]["x-accepts-bytes"] == "1"
        with pytest.raises(grpc.RpcError) as refused:
            infer(channel, request, [("x-top-k", "none")])
        assert ("x-accepts-bytes", "1") in refused.value.trailing_metadata()


# --- whatever comes --------------------------------------------------------------------------------------------------


def test_whatever_form_comes_is_answered_and_never_with_500(service):
    chance, statuses = random.Random(5), set()
    seeds = [form(part(DIGIT)), form(part(DIGIT, "a"), part(b"", "b", headers=["Content-Type: image/png"])), form()]
    pieces = [b"\r\n", b"--", b"--x-boundary-x", b'"', b";", b"\0", b"\xff", b"{", b"Content-Length: 3\r\n"]
    with httpx.Client(timeout=30) as caller:
        for _ in range(600):
            body = bytearray(chance.choice(seeds))
            for _ in range(chance.randint(1, 5)):
                at = chance.randrange(len(body) + 1)
                body[at : at + chance.choice((0, 1, 20))] = chance.choice((*pieces, chance.randbytes(2)))
            body = bytes(body[: chance.choice((len(body), chance.randrange(len(body) + 1)))])
            content_type = chance.choice((FORM, FORM, FORM + "; x=y", "multipart/form-data", "image/png"))
            answer = caller.post(service.prediction_url, content=body, headers={"content-type": content_type})
            statuses.add(answer.status_code)
            assert answer.json()["err_no" if answer.status_code == 200 else "error"] is not None
    assert statuses == {200, 400}
    assert post(service, DIGIT, OCTETS).json()["err_no"] == 0
