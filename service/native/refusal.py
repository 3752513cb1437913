"""The head of an HTTP request -> the answer that refuses it, where that needs no more than its head.

Under overload, what a refusal costs is taken from those who are inside. So this one needs no task, no ASGI scope, and
not the body: the connection writes it itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from service.contract import gateway
from service.contract.caller_timeout import timeout_of_http
from service.contract.gateway import Answer, Route
from service.contract.upload import ACCEPT_POST, is_upload
from service.errors import MalformedRequestError, OverloadedError, ServiceError, UnauthenticatedError, UnavailableError
from service.native.access_log import request_id_of
from service.native.inference import Inference
from service.native.request_meter import RequestMeter

SHORT_BODY_BYTES = 1 << 20  # read on and thrown away behind its answer


class Refusals:
    """Of one door. Whatever is doubtful is not refused here, and hears the same later."""

    def __init__(self, inference: Inference, meter: RequestMeter, admit: Callable[[Sequence[str]], str]) -> None:
        """``admit``: the values of ``Authorization`` -> the caller's name; raises UnauthenticatedError."""
        self._inference = inference
        self._meter = meter
        self._admit = admit

    def by_head(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Answer | None:
        """The answer, which has then been counted; None: the request is to be heard.

        ``target`` and the values of ``headers`` as sent, their names in lower case.
        """
        if method != b"POST" or self._meter.told.looks_at_each:
            return None
        fields = dict(headers)
        try:
            self._inference.check_room(timeout_of_http(fields))
        except MalformedRequestError:
            return None
        except (OverloadedError, UnavailableError) as error:
            return self._answer(error, target, fields, headers)
        return None

    def _answer(
        self, error: ServiceError, target: bytes, fields: dict[bytes, bytes], headers: Sequence[tuple[bytes, bytes]]
    ) -> Answer | None:
        if not (_is_short(fields) and _is_routed(target) and self._is_admitted(headers)):
            return None
        self._meter.refused(error)
        is_overload = isinstance(error, OverloadedError)
        answer = _failure(str(error), is_overload=is_overload, with_offer=_asks(fields))
        given = fields.get(b"x-request-id")
        own = None if given is None else request_id_of(given.decode("latin-1"), needed=False)
        return answer if own is None else replace(answer, headers=(*answer.headers, (b"x-request-id", own.encode())))

    def _is_admitted(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        try:
            self._admit(authorizations(headers))
        except UnauthenticatedError:
            return False
        return True


def authorizations(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """The values of ``Authorization``."""
    return [value.decode("latin-1") for name, value in headers if name == b"authorization"]


def with_offer(answer: Answer, method: str, headers: Sequence[tuple[bytes, bytes]]) -> Answer:
    """To callers that use what stock has not, the answer says which media types they may send."""
    return _offering(answer) if method == "POST" and _asks(dict(headers)) else answer


def _offering(answer: Answer) -> Answer:
    return replace(answer, headers=(*answer.headers, ACCEPT_POST))


def _asks(fields: dict[bytes, bytes]) -> bool:
    return b"x-top-k" in fields or is_upload(fields.get(b"content-type", b""))


def _is_short(fields: dict[bytes, bytes]) -> bool:
    """With a body of a length that is told and that the caller is going to send whatever we say."""
    length = fields.get(b"content-length", b"")
    is_told = length.isdigit() and b"expect" not in fields and b"transfer-encoding" not in fields
    return is_told and int(length) <= SHORT_BODY_BYTES


def _is_routed(target: bytes) -> bool:
    """Not of a target that a URL parser would take apart first."""
    return target[:1] == b"/" and b"#" not in target and isinstance(gateway.route("POST", target), Route)


@lru_cache(maxsize=64)
def _failure(message: str, *, is_overload: bool, with_offer: bool) -> Answer:
    answer = gateway.failure((OverloadedError if is_overload else UnavailableError)(message))
    return _offering(answer) if with_offer else answer
