"""How an image is asked for at one door of one server, and what its answer says."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from benchmarks.load import grpc_request, http_body
from regnetx_client.wire import pipeline_service_pb2 as wire

GRPC_PATH = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
GRPC_HEAD = 5  # bytes before a message: not compressed, and its length


class BadAnswer(Exception):
    """An answer that is not the right one for the image."""


@dataclass(frozen=True)
class Form:
    """One door: the request for an image, and how to read the label out of an answer's body."""

    path: str
    content_type: str
    body: Callable[[bytes], bytes]
    label: Callable[[bytes], str]  # raises BadAnswer


def pipeline(name: str) -> dict[str, Form]:
    """The doors of a pipeline of Paddle Serving, stock's or ours, whose op has that name."""
    return {
        "http": Form(f"/{name}/prediction", "application/json", _json_body, _label_of_json),
        "http-raw": Form(f"/{name}/prediction", "image/jpeg", bytes, _label_of_json),
        "grpc": Form(GRPC_PATH, "application/grpc", _grpc_body, _label_of_grpc),
    }


def peer(json_path: str, raw_path: str | None, *, json_body: Callable[[bytes], bytes] | None = None) -> dict[str, Form]:
    """The doors of a peer, which answers ``{"label": ..., "prob": ...}``, or a list of one."""
    doors = {"http": Form(json_path, "application/json", json_body or _json_body, _label_of_peer)}
    if raw_path:
        doors["http-raw"] = Form(raw_path, "image/jpeg", bytes, _label_of_peer)
    return doors


def _json_body(file: bytes) -> bytes:
    return http_body("http", file)[0]


def _grpc_body(file: bytes) -> bytes:
    message = grpc_request("grpc", file).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _label_of_json(answer: bytes) -> str:
    try:
        fields = json.loads(answer)
        if fields["err_no"] != 0:
            raise BadAnswer(f"err_no {fields['err_no']}: {fields.get('err_msg', '')}")
        return _first(fields["value"][0])
    except (ValueError, LookupError, TypeError) as error:
        raise BadAnswer(f"{answer[:200]!r} is no answer of a pipeline: {error}") from None


def _label_of_grpc(answer: bytes) -> str:
    """``answer`` is the message without its head."""
    try:
        response = wire.Response.FromString(answer)
        if response.err_no != 0:
            raise BadAnswer(f"err_no {response.err_no}: {response.err_msg}")
        return _first(response.value[0])
    except (ValueError, LookupError, DecodeError) as error:
        raise BadAnswer(f"{answer[:200]!r} is no answer of a pipeline: {error}") from None


def _first(text: str) -> str:
    """Of the text of a Python list."""
    label: str = ast.literal_eval(text)[0]
    return label


def _label_of_peer(answer: bytes) -> str:
    try:
        fields = json.loads(answer)
        label: str = (fields[0] if isinstance(fields, list) else fields)["label"]
    except (ValueError, LookupError, TypeError) as error:
        raise BadAnswer(f"{answer[:200]!r} holds no label: {error}") from None
    return label
