"""One image, asked for as a client does, to see that a server answers, and rightly."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.forms import GRPC_HEAD, GRPC_PATH, BadAnswer, Form

SECONDS = 60
AT_ONCE = 16


def ask(address: str, form: Form, file: bytes) -> bytes:
    """The body of the answer, or its message. Raises BadAnswer for a status that is not OK, OSError for no answer."""
    return _grpc(address, form, file) if form.path == GRPC_PATH else _http(address, form, file)


def answer_sizes(address: str, form: Form, file: bytes, labels: list[str]) -> tuple[int, int]:
    """The least and the most bytes of good answers to several callers at once, on the wire.

    The last digits of a score depend on the batch, and so does the length of its text. Raises BadAnswer where the
    label is none of ``labels``, OSError for no answer.
    """
    with ThreadPoolExecutor(AT_ONCE) as callers:
        answers = list(callers.map(lambda _: ask(address, form, file), range(AT_ONCE)))
    good = [_without_commas(label) for label in labels]
    for answer in answers:
        if _without_commas(label := form.label(answer)) not in good:
            raise BadAnswer(f"the label is {label!r}, expected one of {labels}")
    head = GRPC_HEAD if form.path == GRPC_PATH else 0
    sizes = [len(answer) + head for answer in answers]
    return min(sizes), max(sizes)


def _without_commas(label: str) -> str:
    """A pipeline's answer has none."""
    return label.strip().replace(",", "")


def _http(address: str, form: Form, file: bytes) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    try:
        connection.request("POST", form.path, form.body(file), {"Content-Type": form.content_type})
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise BadAnswer(f"no HTTP: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise BadAnswer(f"HTTP {answer.status}: {body[:200].decode(errors='replace')}")
    return body


def _grpc(address: str, form: Form, file: bytes) -> bytes:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            message: bytes = channel.unary_unary(form.path)(form.body(file)[GRPC_HEAD:], timeout=SECONDS)
        except grpc.RpcError as error:
            raise BadAnswer(f"gRPC {error.code().name}: {error.details()}") from None
    return message
