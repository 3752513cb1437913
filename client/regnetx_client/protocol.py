"""Images -> a request of Paddle Serving's pipeline, its answer -> predictions; the same for HTTP and gRPC."""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from regnetx_client.errors import (
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RegnetError,
    ServerError,
    TooLarge,
    Unavailable,
)
from regnetx_client.images import ImageLike, all_encoded
from regnetx_client.predictions import Prediction, ranked

TOP_K = "x-top-k"  # an HTTP header and a gRPC metadata key; Paddle Serving's own server ignores both
MOST_ANSWER_BYTES = 64 << 20  # and less where less was asked:
ANSWER_BYTES, PREDICTION_BYTES = 1 << 20, 8 << 10  # of any answer, and more for each prediction
_HEAVY = 1 << 18  # bytes

# gRPC's status codes, by number: the gateway's JSON errors carry them too.
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 3, 4, 5, 7
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED = 8, 9, 11, 12
UNAVAILABLE, UNAUTHENTICATED = 14, 16
# error_catch.py of Paddle Serving 0.9.0
_FRAME = re.compile(r"Log_id: -?\d+  Raise_msg: (.*)  ClassName: \S*  FunctionName: \S*", re.DOTALL)
_FINAL = {
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    FAILED_PRECONDITION,
    OUT_OF_RANGE,
    UNIMPLEMENTED,
    UNAUTHENTICATED,
}


@dataclass(frozen=True)
class Question:
    """What is asked: images under any keys (each key is an image), and how many predictions of each."""

    keys: tuple[str, ...]
    files: tuple[bytes, ...]  # of an image each
    top_k: int

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The base64 of each file; takes a millisecond for a megabyte, so see ``is_heavy``."""
        return tuple(b2a_base64(file, newline=False).decode("ascii") for file in self.files)

    @property
    def most_answer_bytes(self) -> int:
        """What an answer may have. Read as JSON it takes up to some 25 times as much memory."""
        return min(MOST_ANSWER_BYTES, ANSWER_BYTES + PREDICTION_BYTES * len(self.keys) * self.top_k)

    @property
    def is_heavy(self) -> bool:
        """Whether an event loop has better things to do than to encode these files."""
        return sum(map(len, self.files)) > _HEAVY


@dataclass(frozen=True)
class Answer:
    """The pipeline's Response, whichever door it came through."""

    err_no: int
    err_msg: str
    values: dict[str, str]


@dataclass(frozen=True)
class Refusal:
    """A request that got a status in place of an answer."""

    code: int  # of gRPC
    message: str
    retry_after: float | None = None  # seconds


def question_for(images: Iterable[ImageLike], top_k: int) -> Question:
    """Reads and names the images; raises BadImage, OSError, TypeError or ValueError."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k {top_k!r} is not a whole number from 1 on")
    files = tuple(all_encoded(images))
    keys = ("image",) if len(files) == 1 else tuple(f"image_{index}" for index in range(len(files)))
    return Question(keys, files, top_k)


def predictions_from(answer: Answer, question: Question) -> list[list[Prediction]]:
    """Per image, best first; only the best of each when the server does not know top-k.

    Raises ServerError for an ``err_no`` other than 0, ProtocolError for what cannot be read.
    """
    if answer.err_no:
        message = f"err_no {answer.err_no}: {_reason(answer.err_msg) or 'no message'}"
        raise ServerError(message, err_no=answer.err_no, err_msg=answer.err_msg)
    rows = ranked(answer.values, len(question.keys))
    return [row[: question.top_k] for row in rows]


def check_size(size: int, most: int) -> None:
    """Bounds what a foreign server can make us keep; raises ProtocolError."""
    if size > most:
        raise ProtocolError(f"the answer is longer than {most} bytes")


def _reason(err_msg: str) -> str:
    """What Paddle Serving says of a failed step, without the places in its own code around it."""
    framed = _FRAME.fullmatch(err_msg)
    return framed[1] if framed else err_msg


def refused(refusal: Refusal) -> RegnetError:
    """The one meaning of each gRPC status code; HTTP statuses are brought to these codes first."""
    code, message = refusal.code, refusal.message
    if code == DEADLINE_EXCEEDED:
        return DeadlineExceeded(message)
    if code == RESOURCE_EXHAUSTED:
        # gRPC reports a message over the size limit with the code of an overload; waiting does not help it.
        too_large = "larger than max" in message
        return TooLarge(message) if too_large else Overloaded(message, retry_after=refusal.retry_after)
    if code == UNAVAILABLE:
        return Unavailable(message, retry_after=refusal.retry_after)
    return BadRequest(message) if code in _FINAL else ServerError(message)
