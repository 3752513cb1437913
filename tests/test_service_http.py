"""The HTTP door of a running service: every row of the status and err_no tables, on real sockets."""

from __future__ import annotations

import base64
import http.client
import json
import socket

import pytest

from serving_models.bundled.digits.held_out import held_out

DIGIT = held_out().images[0]
TEXT = base64.b64encode(DIGIT).decode()
FRAME = "  ClassName: Op._run_preprocess.<locals>.preprocess_help  FunctionName: preprocess_help"


def call(service, body, *, path=None, verb="POST", headers=None):
    """(status, headers, body) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(service.http, timeout=30)
    try:
        connection.request(verb, path or f"/{service.name}/prediction", body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def infer(service, keys, values, **fields):
    status, _, body = call(service, json.dumps({"key": keys, "value": values, **fields}))
    assert status == 200
    return json.loads(body)


def test_the_canonical_exchange(service):
    status, headers, body = call(service, json.dumps({"key": ["image"], "value": [TEXT]}))
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Grpc-Metadata-Content-Type"] == "application/grpc"
    assert headers["Grpc-Metadata-Grpc-Accept-Encoding"] == "identity, deflate, gzip"
    answer = json.loads(body)
    assert list(answer) == ["err_no", "err_msg", "key", "value", "tensors"]
    assert (answer["err_no"], answer["err_msg"], answer["key"], answer["tensors"]) == (0, "", ["label", "prob"], [])
    assert body.startswith(b'{"err_no":0,"err_msg":"","key":["label","prob"],"value":["[')
    assert not body.endswith(b"\n")


def test_any_key_is_an_image_and_several_are_a_batch_in_order(service):
    digits = [held_out().images[number] for number in (0, 1, 2)]
    texts = [base64.b64encode(digit).decode() for digit in digits]
    together = infer(service, ["c", "a", "b"], texts)
    alone = [infer(service, ["x"], [text]) for text in texts]
    labels = [json.loads(answer["value"][0].replace("'", '"'))[0] for answer in alone]
    assert json.loads(together["value"][0].replace("'", '"')) == labels


@pytest.mark.parametrize(("query", "header"), [("?top_k=3", {}), ("", {"X-Top-K": "3"})])
def test_top_k_comes_in_a_key_of_its_own_and_only_when_asked_for(service, query, header):
    path = f"/{service.name}/prediction{query}"
    _, _, body = call(service, json.dumps({"key": ["image"], "value": [TEXT]}), path=path, headers=header)
    answer = json.loads(body)
    assert answer["key"] == ["label", "prob", "top_k"]
    [best] = json.loads(answer["value"][2])
    assert len(best) == 3
    assert answer["value"][0] == f"['{best[0]['label']}']"
    assert answer["value"][1] == f"[{best[0]['prob']}]"
    assert best[0]["prob"] >= best[1]["prob"] >= best[2]["prob"]


def test_a_top_k_beyond_the_classes_gives_all_of_them(service):
    path = f"/{service.name}/prediction?top_k=1000"
    _, _, body = call(service, json.dumps({"key": ["image"], "value": [TEXT]}), path=path)
    [ranked] = json.loads(json.loads(body)["value"][2])
    assert sorted(entry["class_id"] for entry in ranked) == list(range(10))


@pytest.mark.parametrize("value", ["0", "1.5", "many", "-1", ""])
def test_a_top_k_that_cannot_be_is_refused(service, value):
    path = f"/{service.name}/prediction?top_k={value}"
    status, _, body = call(service, json.dumps({"key": ["image"], "value": [TEXT]}), path=path)
    assert status == 400
    assert "is not a whole number from 1" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("keys", "values", "fields", "number", "message"),
    [
        (["a"], ["aGVsbG8"], {}, 10000, f"Log_id: 0  Raise_msg: Incorrect padding{FRAME}"),
        (["a"], ["aGVsbG8"], {"logid": 7}, 10000, f"Log_id: 7  Raise_msg: Incorrect padding{FRAME}"),
        (["a", "b"], [TEXT, "aGVsbG8"], {}, 10000, f"Log_id: 0  Raise_msg: Incorrect padding (key b){FRAME}"),
        ([], [], {}, 10000, f"Log_id: 0  Raise_msg: need at least one array to concatenate{FRAME}"),
        (["a"], [""], {}, 10000, f"Log_id: 0  Raise_msg: empty{FRAME}"),
        (["a"], ["aGVsbG8="], {}, 10000, "5 bytes, but not an image we can read (accepted: JPEG, PNG, WebP, BMP, GIF)"),
        (["a"], [base64.b64encode(DIGIT[:-20]).decode()], {}, 10000, "PNG"),
        (["a", "b"], [TEXT], {}, 8000, "rpc package error: list index (1) out of range"),
        (["a"] * 200, [TEXT] * 200, {}, 0, ""),  # one key given 200 times is one image
        ([str(n) for n in range(129)], [TEXT] * 129, {}, 8000, "129 images in one request, at most 128 accepted"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_in_band(service, keys, values, fields, number, message):
    answer = infer(service, keys, values, **fields)
    assert answer["err_no"] == number
    assert message in answer["err_msg"]
    if number:
        assert (answer["key"], answer["value"]) == ([], [])


def test_of_several_bad_images_the_first_is_named_whatever_is_found_first(service):
    huge = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 5_000_000).decode()
    for _ in range(10):
        answer = infer(service, ["good", "huge", "short"], [TEXT, huge, "aGVsbG8"])
        assert answer["err_no"] == 10000
        assert "(key huge)" in answer["err_msg"]


def test_another_service_name_is_err_no_3002(service):
    status, _, body = call(service, "{}", path="/imagenet/prediction")
    assert (status, json.loads(body)["err_no"]) == (200, 3002)
    assert json.loads(body)["err_msg"] == "Failed to inference: Service name error."


@pytest.mark.parametrize("path", ["//prediction", "/regnet/anything", "/%72egnet/prediction", "/regnet/prediction:"])
def test_paths_that_stock_takes(service, path):
    status, _, body = call(service, json.dumps({"key": ["image"], "value": [TEXT]}), path=path)
    assert (status, json.loads(body)["err_no"]) == (200, 0)


@pytest.mark.parametrize("path", ["/", "/prediction", "/regnet", "/regnet/prediction/", "/a/b/c", "/regnet/p:x"])
def test_other_paths_are_404_in_the_words_of_the_gateway(service, path):
    status, headers, body = call(service, "{}", path=path)
    assert (status, body) == (404, b"Not Found\n")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("verb", ["GET", "PUT", "OPTIONS", "DELETE"])
def test_other_verbs_are_405(service, verb):
    assert call(service, None, verb=verb)[::2] == (405, b"Method Not Allowed\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{nope", "invalid character 'n' looking for beginning of object key string"),
        (b'{"key":"image"}', "json: cannot unmarshal string into Go value of type []json.RawMessage"),
        (b'{"key":["a"],"value":[1]}', "json: cannot unmarshal number into Go value of type string"),
        (b"[]", "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
        (b'{"key":["a"],"value":[', "unexpected EOF"),
        (b"\x1f\x8b\x08\x00", "invalid character '\\x1f' looking for beginning of value"),
    ],
)
def test_a_body_that_is_no_request_is_400_in_the_words_of_the_gateway(service, body, message):
    status, headers, answer = call(service, body)
    assert status == 400
    assert headers["Content-Type"] == "application/json"
    assert json.loads(answer) == {"error": message, "code": 3, "message": message, "details": []}


def test_the_callers_deadline_is_504_and_a_bad_one_400(service):
    body = json.dumps({"key": ["image"], "value": [TEXT]})
    status, _, answer = call(service, body, headers={"Grpc-Timeout": "1n"})
    assert (status, json.loads(answer)["code"]) == (504, 4)
    assert json.loads(answer)["error"] == "context deadline exceeded"
    status, _, answer = call(service, body, headers={"Grpc-Timeout": "abc"})
    assert (status, json.loads(answer)["error"]) == (400, "invalid grpc-timeout: abc")
    assert call(service, body, headers={"Grpc-Timeout": "20S"})[0] == 200


def test_a_pickle_in_a_tensor_is_refused_and_not_loaded(service, tmp_path):
    mark = tmp_path / "executed"
    payload = b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload
    tensor = {"name": "image", "elem_type": 13, "byte_data": base64.b64encode(npy).decode()}
    _, _, body = call(service, json.dumps({"tensors": [tensor]}))
    assert json.loads(body)["err_no"] == 8000
    assert not mark.exists()


def test_an_image_may_come_as_the_bytes_of_a_tensor(service):
    tensor = {"name": "image", "elem_type": 7, "uint32_data": list(DIGIT), "shape": [len(DIGIT)]}
    _, _, body = call(service, json.dumps({"tensors": [tensor]}))
    by_text = infer(service, ["image"], [TEXT])
    assert json.loads(body)["value"] == by_text["value"]


def test_health_and_readiness_have_routes_that_stock_has_not(service):
    for path, word in (("/healthz", b"ok\n"), ("/readyz", b"ready\n")):
        status, _, body = call(service, None, path=path, verb="GET")
        assert (status, body) == (200, word)
        status, _, body = call(service, None, path=path, verb="HEAD")
        assert (status, body) == (200, b"")


def test_one_connection_serves_many_requests(service):
    connection = http.client.HTTPConnection(service.http, timeout=30)
    body = json.dumps({"key": ["image"], "value": [TEXT]})
    connection.connect()
    own = connection.sock.getsockname()
    for request in (body, "{nope", body):
        connection.request("POST", service.prediction_url, request)
        connection.getresponse().read()
        assert connection.sock.getsockname() == own
    connection.close()


def test_a_chunked_body_is_read_whole(service):
    connection = http.client.HTTPConnection(service.http, timeout=30)
    body = json.dumps({"key": ["image"], "value": [TEXT]}).encode()
    pieces = iter([body[:10], body[10:50], body[50:]])
    connection.request(
        "POST", "/regnet/prediction", pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert json.loads(connection.getresponse().read())["err_no"] == 0
    connection.close()


def test_a_caller_that_leaves_in_the_middle_of_its_body_harms_nobody(service):
    host, port = service.http.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=30) as caller:
            caller.sendall(b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
    assert infer(service, ["image"], [TEXT])["err_no"] == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
def test_what_is_not_http_is_answered_or_closed(service, garbage):
    host, port = service.http.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as caller:
        caller.sendall(garbage)
        answer = caller.recv(4096)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert infer(service, ["image"], [TEXT])["err_no"] == 0
