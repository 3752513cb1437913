"""Every recorded exchange of the stock server, replayed against a running native service, is answered to the byte."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from recorded.record import METHOD, exchange, json_of, padded
from running import ROOT, Service, configuration, serving

from regnetx_client.wire import pipeline_service_pb2 as wire

Row = dict[str, Any]
RECORDED = Path(__file__).parent / "recorded"
# Header fields of the connection and of the moment, not of the answer
UNCOMPARED = {"connection", "date", "content-length", "transfer-encoding"}
TOLERANCE = 1e-5  # of `prob`, for its last digits depend on the processor
STAND_IN = "the recorded op times out, fails, answers a number or feeds another input; ours does not"
# Which rows differ, and why: words of the table in docs/compatibility.md. Rows without a name are known by number.
EXEMPT: dict[str, dict[str, list[int | str]]] = {
    "gateway": {
        "Bytes in the request line that HTTP does not allow there": [20, 34, 35, 43],
        "`GET /healthz` and `/readyz`: 404": [45, 46],
        "`Grpc-Timeout` has passed, and the request is wrong as well": [56, 58, 70],
    },
    "service": {
        "Not an image, empty, truncated, too large": [24, 25, 27, 42, 56],
        "`data:image/...;base64,` before the base64": [28],
        "One bad image of several: it is not said which": [34],
        "Key `pipeline.profile` is decoded as an image": [52],
        "Any array: 10000": [59, 61, 64, *range(74, 83), 93, *range(98, 102)],
        "`elem_type` 7 with numbers over 255": [71],
        STAND_IN: [48, 49, 50],
    },
    "digits": {
        "Answers over 4 MiB: HTTP 429": ["HTTP: 5 MiB of answer"],
        "Not an image, empty, truncated, too large": [
            "HTTP: not an image",
            "HTTP: a truncated image",
            "HTTP: an empty value",
            "gRPC: not an image",
        ],
        "One bad image of several: it is not said which": ["HTTP: one bad image of two"],
        "`data:image/...;base64,` before the base64": ["HTTP: a data URL"],
        "Key `pipeline.profile` is decoded as an image": [
            "HTTP: profile",
            "HTTP: profile 0 is an image to stock",
            "HTTP: profile, with an op that does not take it for an image",
        ],
        "Requests over 4 MiB with `build_dag_each_worker`: HTTP 429": [
            "HTTP: 5 MiB of request, with build_dag_each_worker"
        ],
        "The server behind the gateway is down: 503": ["HTTP: the server behind the gateway is down"],
        "Any array: 10000": [
            "HTTP: the file as uint8",
            "HTTP: the file as .npy",
            "HTTP: an array of floats",
            "gRPC: the file as .npy",
        ],
        "Tensor of `elem_type` 13: `np.load(allow_pickle=True)`": [
            "HTTP: a pickled array (of a harmless dict), which stock loads",
            "HTTP: a bare pickle (of a number), which stock loads",
            "gRPC: a pickled array (of a harmless dict), which stock loads",
        ],
        "No gRPC health and no reflection": ["gRPC: health", "gRPC: reflection"],
        STAND_IN: ["HTTP: an error number of the op's own", "HTTP: an input that the model does not have"],
    },
}


@pytest.fixture(scope="module")
def imagenet(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service under the name that the recordings use."""
    with serving(tmp_path_factory.mktemp("recorded"), configuration(digits_model, name="imagenet")) as running:
        yield running


def rows_of(name: str) -> list[Row]:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def ask(service: Service, row: Row) -> Row:
    """The answer of the running service to a row with the parts of an HTTP request."""
    sent = {name: row[name] for name in ("verb", "target", "headers") if name in row}
    return exchange(**sent, body=padded({"body": "", **row}), port=int(service.http.rpartition(":")[2]))


def same_http(ours: Row, stock: Row) -> bool:
    same_headers = headers_of(ours) == headers_of(stock)
    return ours["status"] == stock["status"] and same_headers and same_answer(ours["answer"], stock["answer"])


def headers_of(answer: Row) -> dict[str, str]:
    fields = {name.lower(): value for name, value in answer["answer_headers"].items()}
    return {name: value for name, value in fields.items() if name not in UNCOMPARED}


def same_answer(ours: str, stock: str) -> bool:
    """The same bytes, but for the last digits of ``prob``."""
    if ours == stock:
        return True
    try:
        one, two = json.loads(ours), json.loads(stock)
        prob, (label, recorded) = one["value"][1], two["value"]
    except (ValueError, KeyError, IndexError):
        return False
    return ours.replace(prob, recorded) == stock and close(prob, recorded) and one["value"][0] == label


def close(ours: str, stock: str) -> bool:
    return ast.literal_eval(ours) == pytest.approx(ast.literal_eval(stock), abs=TOLERANCE)


def check_exempt(name: str, same: Callable[[Row], bool]) -> None:
    """Exactly those rows differ that the table above names: one that does not, though named, is an error too."""
    differ = {name_of(row, index) for index, row in enumerate(rows_of(name)) if not same(row)}
    assert differ == {row for rows in EXEMPT[name].values() for row in rows}


def name_of(row: Row, index: int) -> int | str:
    return f"{'gRPC' if 'message' in row else 'HTTP'}: {row['about']}" if "about" in row else index


@pytest.mark.parametrize("reason", sorted({reason for rows in EXEMPT.values() for reason in rows} - {STAND_IN}))
def test_the_documentation_says_why_an_answer_differs(reason):
    table = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    assert f"\n| {reason}" in table


def test_the_gateway_answers_as_recorded(imagenet):
    """Where its answer was that of the server behind it, a stand-in, the body is not compared."""

    def same(row: Row) -> bool:
        ours = ask(imagenet, row)
        return same_http({**ours, "answer": row["answer"]} if row["status"] == 200 else ours, row)

    check_exempt("gateway", same)


def test_the_pipeline_answers_as_recorded_by_http(imagenet):
    """The model was a stand-in: of its labels only the number is compared."""

    def same(row: Row) -> bool:
        target = f"/{row['fields'].get('name', 'imagenet')}/{row['fields'].get('method', 'prediction')}"
        ours = ask(imagenet, {"target": target, "body": json_of(row["fields"])})
        return ours["status"] == row["status"] and same_but_labels(ours["answer"], row["answer"])

    check_exempt("service", same)


def same_but_labels(ours: str, stock: str) -> bool:
    one, two = json.loads(ours), json.loads(stock)
    counts = [[len(ast.literal_eval(value)) for value in answer.pop("value")] for answer in (one, two)]
    return (ours == stock or not one["err_no"]) and one == two and counts[0] == counts[1]


def test_the_pipeline_answers_as_recorded_by_grpc(imagenet):
    with grpc.insecure_channel(imagenet.rpc) as channel:
        infer = channel.unary_unary(METHOD, wire.Request.SerializeToString, wire.Response.FromString)

        def same(row: Row) -> bool:
            ours = infer(message(row["fields"]), timeout=20)
            stock = wire.Response(**row["rpc"])
            counts = [[len(ast.literal_eval(value)) for value in answer.value] for answer in (ours, stock)]
            ours.ClearField("value"), stock.ClearField("value")
            return ours == stock and counts[0] == counts[1]

        check_exempt("service", same)


def message(fields: Row) -> wire.Request:
    tensors = [
        {**tensor, "byte_data": tensor.get("byte_data", "").encode("latin-1")} for tensor in fields.get("tensors", ())
    ]
    return wire.Request(**{**fields, "tensors": [wire.Tensor(**tensor) for tensor in tensors]})


def test_a_model_behind_stock_is_answered_for_as_recorded(imagenet):
    with grpc.insecure_channel(imagenet.rpc) as channel:

        def same(row: Row) -> bool:
            return same_grpc(call(channel, row), row) if "message" in row else same_http(ask(imagenet, row), row)

        check_exempt("digits", same)


def call(channel: grpc.Channel, row: Row) -> Row:
    compression = grpc.Compression.Gzip if row.get("gzip") else None
    infer = channel.unary_unary(row.get("method", METHOD))
    try:
        response = infer(base64.b64decode(row["message"]), timeout=20, compression=compression)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}
    return {"code": "OK", "response": base64.b64encode(response).decode()}


def same_grpc(ours: Row, stock: Row) -> bool:
    if ours == {name: stock[name] for name in ("code", "details", "response") if name in stock}:
        return True
    if "response" not in ours or "response" not in stock:
        return False
    one, two = (wire.Response.FromString(base64.b64decode(answer["response"])) for answer in (ours, stock))
    if len(one.value) != 2 or len(two.value) != 2 or not close(one.value[1], two.value[1]):
        return False
    one.value[1] = two.value[1]
    return one.SerializeToString() == base64.b64decode(stock["response"])
