"""Load at both doors in which every call is accounted for, while a test does something to the service."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc
from calling import METHOD
from conftest import DIGITS
from running import Service, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire

SAMPLES = [(base64.b64encode(path.read_bytes()).decode(), path.stem) for path in sorted((DIGITS / "samples").iterdir())]
PACE = 0.01  # seconds between two calls of one caller: enough load, and time for others on a small machine
MOST_SECONDS = 60.0  # of load, whatever happens
ANSWER_SECONDS = 45.0  # a request may take 30: whoever waits longer hangs
CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),  # else callers of one process share their connection
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class End(Enum):
    """How a call ended, each in exactly one way. The last two must not happen."""

    RIGHT = "answered for its own image"
    REFUSED = "refused with a reason"
    LOST = "its connection was lost"
    WRONG = "answered with something else"
    HUNG = "not answered"


@dataclass(frozen=True)
class Outcome:
    """One call."""

    caller: int
    began: float
    end: End
    reason: str = ""


class HttpCaller:
    """Keeps a connection until it is lost."""

    def __init__(self, service: Service) -> None:
        self._path = f"/{service.name}/prediction"
        self._connection = http.client.HTTPConnection(service.http, timeout=ANSWER_SECONDS)

    def call(self, text: str, label: str) -> tuple[End, str]:
        try:
            self._connection.request("POST", self._path, json.dumps({"key": ["image"], "value": [text]}))
            response = self._connection.getresponse()
            status, retry_after, body = response.status, response.headers["Retry-After"], response.read()
        except TimeoutError:
            self.close()
            return End.HUNG, "HTTP"
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return End.LOST, repr(error)
        if status in (429, 503) and retry_after:
            return End.REFUSED, f"{status}: {body.decode()}"
        if status != 200:
            return End.WRONG, f"{status}: {body!r}"
        answer = json.loads(body)
        return _judged(answer["err_no"], answer["err_msg"], answer["value"], label)

    def close(self) -> None:
        self._connection.close()


class GrpcCaller:
    """Has a channel, and so a connection, of its own."""

    def __init__(self, service: Service) -> None:
        self._channel = grpc.insecure_channel(service.rpc, CHANNEL)
        self._method = self._channel.unary_unary(
            METHOD, wire.Request.SerializeToString, response_deserializer=wire.Response.FromString
        )

    def call(self, text: str, label: str) -> tuple[End, str]:
        try:
            answer = self._method(wire.Request(key=["image"], value=[text]), timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return self._failed(error)
        return _judged(answer.err_no, answer.err_msg, list(answer.value), label)

    def close(self) -> None:
        self._channel.close()

    @staticmethod
    def _failed(error: Any) -> tuple[End, str]:
        reason = f"{error.code().name}: {error.details()}"
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return End.HUNG, reason
        if "retry-after" in dict(error.trailing_metadata() or ()):
            return End.REFUSED, reason
        return (End.LOST if error.code() is grpc.StatusCode.UNAVAILABLE else End.WRONG), reason


def _judged(err_no: int, err_msg: str, value: list[str], label: str) -> tuple[End, str]:
    if err_no:
        return End.REFUSED, f"err_no {err_no}: {err_msg}"
    return (End.RIGHT, "") if value[0] == f"['{label}']" else (End.WRONG, f"{value} for {label}")


@dataclass
class Load:
    """What became of all calls so far."""

    callers: list[HttpCaller | GrpcCaller]
    outcomes: list[Outcome] = field(default_factory=list)
    begun: Counter[int] = field(default_factory=Counter)  # calls, by caller
    over: threading.Event = field(default_factory=threading.Event)

    def ended(self, end: End) -> list[Outcome]:
        return [outcome for outcome in list(self.outcomes) if outcome.end is end]

    @property
    def reasons(self) -> set[str]:
        """Why calls were refused."""
        return {outcome.reason for outcome in self.ended(End.REFUSED)}

    def goes_on(self) -> None:
        """Until each caller has been answered for a call that it began from now on."""
        now, everyone = time.monotonic(), set(range(len(self.callers)))
        wait_for(lambda: {one.caller for one in self.ended(End.RIGHT) if one.began > now} == everyone, ANSWER_SECONDS)

    def run(self, number: int) -> None:
        caller, give_up, turn = self.callers[number], time.monotonic() + MOST_SECONDS, number
        while not self.over.wait(PACE) and time.monotonic() < give_up:
            text, label = SAMPLES[turn % len(SAMPLES)]
            began, turn = time.monotonic(), turn + 1
            self.begun[number] += 1
            end, reason = caller.call(text, label)
            self.outcomes.append(Outcome(number, began, end, reason))
        caller.close()

    def account(self) -> None:
        """Every call has ended, in a way that is allowed."""
        assert sum(self.begun.values()) == len(self.outcomes)
        bad = [outcome for outcome in self.outcomes if outcome.end in (End.WRONG, End.HUNG)]
        assert not bad, bad[:3]


@contextlib.contextmanager
def under_load(service: Service, *, http_callers: int = 3, grpc_callers: int = 3) -> Iterator[Load]:
    """Callers that send different digits one after the other while the block runs; afterwards each call is looked at."""
    callers = [HttpCaller(service) for _ in range(http_callers)] + [GrpcCaller(service) for _ in range(grpc_callers)]
    load = Load(callers)
    threads = [threading.Thread(target=load.run, args=(number,), daemon=True) for number in range(len(callers))]
    for thread in threads:
        thread.start()
    try:
        load.goes_on()
        yield load
    finally:
        load.over.set()
        for thread in threads:
            thread.join(2 * ANSWER_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a caller hangs"
    load.account()
