"""An open loop that nothing slows down: raw sockets under epoll, so that it costs little beside a server on its cores.

python -m benchmarks.overload_load    an Order as JSON on standard input; what was Seen as JSON on standard output

Requests leave when they are due (a Poisson process), whether earlier ones are answered or not, each on a connection on
which nothing else is in flight; times are from the moment a request was due. Probes are asked all the while.
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.load import quantile
from benchmarks.open_loop import arrivals

MOST_CONNECTIONS = 8000  # a request that finds none free and may open none waits, and that counts
SEND_BUFFER = 1 << 18  # bytes: a whole request in one call
PROBE_PAUSE = 0.1  # seconds
LONGEST_WAIT = 0.05  # seconds, of the poll
GOOD_BODY = b'{"err_no":0,'
GOOD, LATE, BROKEN, LOST = "good", "late", "broken", "lost"
REFUSALS = ("429", "503")


@dataclass(frozen=True)
class Order:
    """What to send. Times in seconds; ``body`` is a file; ``probes``: name -> host:port and path."""

    address: str
    path: str
    content_type: str
    body: str
    rate: float
    seconds: float
    settle: float  # at the beginning, for queues to fill: of the figures only the counts know of it
    patience: float  # after the last request was due, until what is unanswered is lost
    bound: float  # an answer that took longer is late, and worth nothing
    probes: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Times:
    """Seconds of some requests; 0 where there are none."""

    p50: float
    p99: float
    number: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Times:
        """Their quantiles."""
        ordered = sorted(seconds)
        return cls(quantile(ordered, 0.5), quantile(ordered, 0.99), len(ordered)) if ordered else cls(0.0, 0.0, 0)


@dataclass(frozen=True)
class Seen:
    """What became of the requests, and what it cost to ask."""

    offered: float  # requests a second
    outcomes: dict[str, int]  # good, late, another status, the err_no of another answer, broken, lost
    goodput: float  # good answers a second, once queues were full
    accepted: Times  # those that were good or late
    refused: Times  # 429 and 503
    probes: dict[str, Times]  # of those answered with 200
    failed_probes: dict[str, int]  # of those answered otherwise, or not at all
    lag: Times  # by which the generator itself was late
    connections: int  # the most that were open
    seconds: float  # from the first request to the last answer, or until the others were lost
    cpu_seconds: float  # of the generator


@dataclass(slots=True)
class Request:
    """One request; times of ``time.perf_counter``."""

    due: float
    sent: float = 0.0
    ended: float = 0.0
    outcome: str = LOST

    @property
    def seconds(self) -> float:
        """From when it was due."""
        return self.ended - self.due


def read_answer(heard: bytes) -> tuple[int, bytes, bool] | None:
    """Status, body, and whether the connection ends with it; None while not all is there. Raises ValueError."""
    head, end, body = heard.partition(b"\r\n\r\n")
    if not end:
        return None
    fields = head.lower()
    length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return None if len(body) < length else (int(head[9:12]), body, b"connection: close" in fields)


class Connection:
    """One request after the other, each answered before the next."""

    def __init__(self, poll: select.epoll, address: tuple[str, int], callers: Callers) -> None:
        self.callers = callers
        self.request: Request | None = None
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self._poll = poll
        self._events = select.EPOLLIN
        self._rest = memoryview(b"")
        self._heard = b""
        poll.register(self.socket, self._events)

    def ask(self, packet: memoryview, request: Request) -> None:
        """Send as much as can be sent now. Raises OSError."""
        self.request, self._heard, self._rest = request, b"", packet
        request.sent = time.perf_counter()
        self.send()

    def send(self) -> None:
        """Send on. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            self._rest = self._rest[self.socket.send(self._rest) :]
        events = select.EPOLLIN | (select.EPOLLOUT if self._rest else 0)
        if events != self._events:
            self._poll.modify(self.socket, events)
            self._events = events

    def hear(self) -> tuple[int, bytes, bool] | None:
        """As ``read_answer``; who answers before all is sent gets no more. Raises OSError where none will come."""
        heard = self.socket.recv(1 << 16)
        if not heard:
            raise ConnectionResetError
        self._heard += heard
        answer = read_answer(self._heard)
        return (*answer[:2], True) if answer and self._rest else answer


class Callers:
    """Connections for one request that is asked again and again, and what became of each time."""

    def __init__(self, hub: Hub, address: str, packet: bytes, *, most: int, judge: Callable[[int, bytes], str]) -> None:
        """``most``: connections; ``judge``: status and body -> outcome."""
        host, port = address.split(":")
        self._hub, self._address, self._most, self._judge = hub, (host, int(port)), most, judge
        self._packet = memoryview(packet)
        self._free: list[Connection] = []
        self._waiting: deque[Request] = deque()
        self._open = 0
        self.requests: list[Request] = []
        self.unanswered = 0
        self.most_open = 0

    def ask(self, due: float) -> None:
        """One more request, now or as soon as a connection is free."""
        request = Request(due)
        self.requests.append(request)
        self.unanswered += 1
        self._waiting.append(request)
        self.send()

    def send(self) -> None:
        """What waits and can be sent."""
        while self._waiting and (self._free or self._open < self._most):
            connection = self._free.pop() if self._free else self._connected()
            try:
                connection.ask(self._packet, self._waiting.popleft())
            except OSError:
                self._ended(connection, BROKEN, closes=True)

    def _connected(self) -> Connection:
        connection = Connection(self._hub.poll, self._address, self)
        self._hub.connections[connection.socket.fileno()] = connection
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        return connection

    def happened(self, connection: Connection, events: int) -> None:
        """Something can be heard or sent."""
        try:
            if events & select.EPOLLOUT:
                connection.send()
            answer = connection.hear() if events & ~select.EPOLLOUT else None
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._ended(connection, BROKEN, closes=True)
            return
        if answer is not None:
            status, body, closes = answer
            self._ended(connection, self._judge(status, body), closes=closes)

    def _ended(self, connection: Connection, outcome: str, *, closes: bool) -> None:
        request, connection.request = connection.request, None
        if request is not None:
            request.outcome, request.ended = outcome, time.perf_counter()
            self.unanswered -= 1
        elif connection in self._free:  # it was idle, and the server has ended it
            self._free.remove(connection)
        if closes:
            del self._hub.connections[connection.socket.fileno()]
            connection.socket.close()
            self._open -= 1
        else:
            self._free.append(connection)


class Hub:
    """All connections, and what happens on them."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}

    def wait(self, seconds: float) -> None:
        """For something to happen, and let those whom it is for know."""
        for number, events in self.poll.poll(seconds):
            if (connection := self.connections.get(number)) is not None:
                connection.callers.happened(connection, events)
                connection.callers.send()

    def close(self) -> None:
        """Hang up on everyone."""
        for connection in self.connections.values():
            connection.socket.close()
        self.poll.close()


def judged(status: int, body: bytes) -> str:
    """GOOD, or what else an answer of a pipeline is."""
    if status != 200:
        return str(status)
    if body.startswith(GOOD_BODY):
        return GOOD
    return f"err_no {body[len(GOOD_BODY) - 2 :].partition(b',')[0].decode(errors='replace')[:10]}"


def load(order: Order) -> Seen:
    """Ask as ordered. No request is waited for longer than ``patience`` after the last was due."""
    body = Path(order.body).read_bytes()
    head = f"POST {order.path} HTTP/1.1\r\nHost: {order.address}\r\nContent-Type: {order.content_type}\r\n"
    head += f"Grpc-Timeout: {round(order.bound * 1000)}m\r\n"  # to stock's gateway and to us, how long a caller waits
    packet = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    hub = Hub()
    callers = Callers(hub, order.address, packet, most=MOST_CONNECTIONS, judge=judged)
    probers = {name: _prober(hub, address, path) for name, (address, path) in order.probes.items()}
    agenda = [(due, callers) for due in arrivals(order.rate, order.seconds)]
    times = [number * PROBE_PAUSE for number in range(int(order.seconds / PROBE_PAUSE))]
    agenda += [(due, prober) for due in times for prober in probers.values()]
    agenda.sort(key=lambda one: one[0])
    began, cpu = time.perf_counter(), time.process_time()
    try:
        _ask_all(hub, [(began + due, who) for due, who in agenda], order.patience)
        cost = time.perf_counter() - began, time.process_time() - cpu
    finally:
        hub.close()
    return _seen(order, callers, probers, began, cost)


def _prober(hub: Hub, address: str, path: str) -> Callers:
    packet = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    return Callers(hub, address, packet, most=1, judge=lambda status, _: GOOD if status == 200 else str(status))


def _ask_all(hub: Hub, agenda: list[tuple[float, Callers]], patience: float) -> None:
    everyone = {id(who): who for _, who in agenda}.values()
    left = deque(agenda)
    give_up = agenda[-1][0] + patience
    while left or any(one.unanswered for one in everyone):
        now = time.perf_counter()
        if now >= give_up:
            return
        while left and left[0][0] <= now:
            due, who = left.popleft()
            who.ask(due)
        hub.wait(min(max(0.0, left[0][0] - time.perf_counter()), LONGEST_WAIT) if left else LONGEST_WAIT)


def _seen(order: Order, callers: Callers, probers: dict[str, Callers], began: float, cost: tuple[float, float]) -> Seen:
    for request in callers.requests:
        if request.outcome == GOOD and request.seconds > order.bound:
            request.outcome = LATE
    since, until = began + order.settle, began + order.seconds
    steady = [request for request in callers.requests if since <= request.ended < until]
    good = sum(request.outcome == GOOD for request in steady)
    probed = {name: [one for one in prober.requests if one.outcome == GOOD] for name, prober in probers.items()}
    return Seen(
        offered=len(callers.requests) / order.seconds,
        outcomes=dict(Counter(request.outcome for request in callers.requests)),
        goodput=good / (until - since),
        accepted=Times.of(request.seconds for request in steady if request.outcome in (GOOD, LATE)),
        refused=Times.of(request.seconds for request in steady if request.outcome in REFUSALS),
        probes={name: Times.of(request.seconds for request in good) for name, good in probed.items()},
        failed_probes={name: len(probers[name].requests) - len(good) for name, good in probed.items()},
        lag=Times.of(request.sent - request.due for request in callers.requests if request.sent),
        connections=callers.most_open,
        seconds=cost[0],
        cpu_seconds=cost[1],
    )


def main() -> None:
    """One load."""
    gc.disable()  # nothing here is a cycle, and a collection would be lag
    print(json.dumps(asdict(load(Order(**json.load(sys.stdin))))))


if __name__ == "__main__":
    main()
