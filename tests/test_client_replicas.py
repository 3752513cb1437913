"""Which replica is asked next, which is set aside and for how long, and when a failed call is made again."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest

from regnetx_client import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RegnetError,
    ServerError,
    TooLarge,
    Unavailable,
    endpoints,
    replicas,
    resolution,
)
from regnetx_client.deadline import Deadline
from regnetx_client.endpoints import Endpoint, addresses_of, base_urls, endpoints_of
from regnetx_client.failover import Budget, Failover
from regnetx_client.replicas import Replicas
from regnetx_client.resolution import Resolution

A, B, C, D = (Endpoint(f"http://{name}") for name in "abcd")
FOREVER = Deadline.after(None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time that passes when the test says so."""
    now = SimpleNamespace(seconds=1000.0)
    for module in (replicas, resolution):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def ask(among: Replicas, error: Exception | None = None) -> Endpoint:
    """One request from beginning to end."""
    with suppress(RegnetError), among.asked(()) as replica:
        if error is not None:
            raise error
    return replica.endpoint


def fail(among: Replicas, endpoint: Endpoint, error: Exception) -> None:
    """One request to a certain replica, that fails."""
    others = [replica for replica in among._all if replica.endpoint != endpoint]
    with suppress(RegnetError), among.asked(others) as replica:
        assert replica.endpoint == endpoint
        raise error


def shares(among: Replicas, count: int = 30) -> Counter[Endpoint]:
    return Counter(ask(among) for _ in range(count))


def test_requests_one_after_the_other_are_spread_evenly() -> None:
    assert shares(Replicas([A, B, C])) == {A: 10, B: 10, C: 10}


def test_of_many_clients_not_all_begin_with_the_first_replica() -> None:
    assert len({ask(Replicas([A, B, C])) for _ in range(100)}) == 3


def test_requests_in_flight_together_are_spread_evenly() -> None:
    among = Replicas([A, B, C])
    with ExitStack() as stack:
        asked = Counter(stack.enter_context(among.asked(())).endpoint for _ in range(30))
    assert asked == {A: 10, B: 10, C: 10}


def test_a_replica_that_is_stuck_gets_nothing_while_others_are_free() -> None:
    among = Replicas([A, B, C])
    with among.asked(()) as stuck:
        assert set(shares(among)) == {A, B, C} - {stuck.endpoint}
    assert set(shares(among)) == {A, B, C}


def test_one_that_was_tried_is_not_asked_again_while_there_are_others() -> None:
    among = Replicas([A, B, C])
    for _ in range(20):
        tried = set()
        for _ in range(3):
            with among.asked(tried) as replica:
                tried.add(replica)
        assert {replica.endpoint for replica in tried} == {A, B, C}
        assert not among.another(tried)


@pytest.mark.parametrize("error", [ConnectionFailed("why"), Unavailable("why"), Overloaded("why")])
def test_one_that_fails_is_set_aside_tried_with_one_request_and_back_when_it_answers(
    error: RegnetError, clock: SimpleNamespace
) -> None:
    among = Replicas([A, B, C])
    fail(among, A, error)
    assert set(shares(among)) == {B, C}
    clock.seconds += 0.7
    with among.asked(()) as trial:
        assert trial.endpoint == A
        assert set(shares(among)) == {B, C}
    assert shares(among) == {A: 10, B: 10, C: 10}


def test_one_that_had_a_second_and_did_not_answer_is_set_aside_but_not_one_that_had_less(
    clock: SimpleNamespace,
) -> None:
    among = Replicas([A, B])
    for seconds, left in ((0.9, {A, B}), (1.1, {B})):
        others = [replica for replica in among._all if replica.endpoint == B]
        with suppress(DeadlineExceeded), among.asked(others):
            clock.seconds += seconds
            raise DeadlineExceeded("why")
        assert set(shares(among)) == left


@pytest.mark.parametrize("error", [BadRequest("why"), ServerError("why"), ProtocolError("why")])
def test_one_that_only_refuses_this_request_is_not_set_aside(error: RegnetError) -> None:
    among = Replicas([A, B])
    fail(among, A, error)
    assert set(shares(among)) == {A, B}


def test_it_is_set_aside_for_longer_each_time_but_not_for_ever(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)
    among = Replicas([A, B])
    [failing] = [replica for replica in among._all if replica.endpoint == A]
    pauses = []
    for _ in range(7):
        for _ in range(3):  # those that fail together are one failure
            fail(among, A, ConnectionFailed("why"))
        pauses.append(failing.aside_until - clock.seconds)
        clock.seconds = failing.aside_until
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_it_is_set_aside_for_as_long_as_it_asks_but_ten_seconds_at_most(clock: SimpleNamespace) -> None:
    for asked, until in ((3.0, 3.0), (3600.0, 10.0)):
        among = Replicas([A, B])
        fail(among, A, Overloaded("why", retry_after=asked))
        clock.seconds += until - 0.001
        assert set(shares(among)) == {B}
        clock.seconds += 0.002
        assert set(shares(among)) == {A, B}


def test_when_all_are_set_aside_all_are_asked(clock: SimpleNamespace) -> None:
    among = Replicas([A, B, C])
    for endpoint in (A, B, C):
        fail(among, endpoint, ConnectionFailed("why"))
    assert shares(among) == {A: 10, B: 10, C: 10}


def test_an_answer_to_what_was_asked_before_the_failure_brings_nothing_back(clock: SimpleNamespace) -> None:
    among = Replicas([A, B])
    with among.asked([replica for replica in among._all if replica.endpoint == B]):
        fail(among, A, ConnectionFailed("why"))
    assert set(shares(among)) == {B}


def test_replicas_come_and_go_and_what_is_known_of_the_others_stays() -> None:
    among = Replicas([A, B])
    fail(among, A, ConnectionFailed("why"))
    among.update([A, C, D])
    assert set(shares(among)) == {C, D}


def test_threads_that_share_it_lose_no_count() -> None:
    among = Replicas([A, B, C])
    threads = [threading.Thread(target=shares, args=(among, 500)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replica.in_flight for replica in among._all] == [0, 0, 0]
    assert sum(shares(among).values()) == 30


# --- when a call is made again -------------------------------------------------------------------


def pause(rule: Failover, error: RegnetError, failures: int = 0, **options: object) -> float | None:
    return rule.pause(error, failures, options.get("deadline", FOREVER), another=bool(options.get("another")))


ELSEWHERE = [
    ConnectionFailed("refused", sent=False),
    ConnectionFailed("broken"),
    Unavailable("full"),
    Overloaded("full", retry_after=3.0),
    ServerError("closed", err_no=3001),
]
FINAL = [
    DeadlineExceeded("why"),
    BadRequest("why"),
    TooLarge("why"),
    ServerError("why"),
    ServerError("why", err_no=10000),
    ProtocolError("why"),
]


@pytest.mark.parametrize("error", ELSEWHERE, ids=repr)
def test_what_was_not_answered_is_tried_elsewhere_at_once_and_after_that_with_a_pause(error: RegnetError) -> None:
    rule = Failover.of(30.0, 5, several=True)
    assert pause(rule, error, another=True) == 0.0
    assert pause(rule, error, failures=4, another=True) == 0.0
    assert pause(rule, error) > 0.0
    assert pause(rule, error, failures=5, another=True) is None


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_nothing_else_is_tried_again(error: RegnetError) -> None:
    assert pause(Failover.of(30.0, 5, several=True), error, another=True) is None


def test_pauses_grow_to_two_seconds_and_differ() -> None:
    rule = Failover.of(30.0, 10_000, several=True)
    error = ConnectionFailed("why")
    for failures, longest in ((0, 0.1), (1, 0.2), (2, 0.4), (5, 2.0), (5000, 2.0)):
        pauses = {pause(rule, error, failures) for _ in range(5)}
        assert len(pauses) == 5
        assert all(longest / 2 <= one <= longest for one in pauses)


def test_a_time_that_was_named_is_waited_for_but_not_past_the_deadline() -> None:
    rule = Failover.of(30.0, 5, several=True)
    assert pause(rule, Overloaded("why", retry_after=3.0)) == 3.0
    assert pause(rule, Overloaded("why", retry_after=3.0), deadline=Deadline.after(2.0)) is None


def test_two_retries_are_usual_with_several_replicas_and_none_with_one() -> None:
    assert Failover.of(30.0, None, several=True).policy.retries == 2
    assert Failover.of(30.0, None, several=False).policy.retries == 0
    assert Failover.of(30.0, 0, several=True).policy.retries == 0


def test_with_one_server_the_rule_is_its_own_and_knows_no_budget() -> None:
    rule = Failover.of(30.0, 500, several=False)
    for _ in range(200):
        assert pause(rule, ConnectionFailed("refused", sent=False), another=True) == 0.1
    assert pause(rule, ConnectionFailed("broken")) is None


def test_the_budget_is_a_hundred_retries_and_one_more_for_five_answers() -> None:
    rule = Failover.of(30.0, 2, several=True)
    made = [pause(rule, ConnectionFailed("why"), another=True) for _ in range(150)]
    assert made == [0.0] * 100 + [None] * 50
    for _ in range(4):
        rule.budget.earn()
    assert pause(rule, ConnectionFailed("why"), another=True) is None
    rule.budget.earn()
    assert pause(rule, ConnectionFailed("why"), another=True) == 0.0


def test_a_retry_that_is_not_made_costs_nothing() -> None:
    rule = Failover.of(30.0, 2, several=True)
    for error, failures in ((BadRequest("why"), 0), (ConnectionFailed("why"), 2)):
        assert pause(rule, error, failures) is None
    assert pause(rule, Overloaded("why", retry_after=60.0), deadline=Deadline.after(1.0)) is None
    assert sum(rule.budget.take() for _ in range(150)) == 100


def test_a_budget_that_is_full_grows_no_more() -> None:
    budget = Budget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.take() for _ in range(150)) == 100


# --- names and addresses -------------------------------------------------------------------------


def test_urls_are_one_or_several_each_once() -> None:
    assert base_urls("http://a/") == ["http://a"]
    assert base_urls(["http://a/", "http://b:1/x", "http://a"]) == ["http://a", "http://b:1/x"]
    with pytest.raises(ValueError, match="no url is given"):
        base_urls([])
    with pytest.raises(ValueError, match="url 'b' is not like"):
        base_urls(["http://a", "b"])


def test_each_address_of_a_name_is_an_endpoint_that_keeps_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: ["10.0.0.1", "fd00::1"])
    assert endpoints_of("https://regnetx.test:8443/models") == [
        Endpoint("https://10.0.0.1:8443/models", "regnetx.test:8443", "regnetx.test"),
        Endpoint("https://[fd00::1]:8443/models", "regnetx.test:8443", "regnetx.test"),
    ]
    assert endpoints_of("https://bücher.test")[0] == Endpoint(
        "https://10.0.0.1", "xn--bcher-kva.test", "xn--bcher-kva.test"
    )


def test_the_systems_resolver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(host: str, port: int, **options: object) -> list[tuple]:
        asked.append((host, port))
        tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        link_local = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", port, 0, 2))
        if host == "printer.local":
            return [link_local]
        return [(*tcp, ("10.0.0.2", port)), link_local, (*tcp, ("10.0.0.1", port)), (*tcp, ("10.0.0.2", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert addresses_of("regnetx.test", 80) == ["10.0.0.2", "10.0.0.1"]
    assert [endpoint.url for endpoint in endpoints_of("http://regnetx.test")] == ["http://10.0.0.2", "http://10.0.0.1"]
    assert asked == [("regnetx.test", 80)] * 2
    with pytest.raises(OSError, match="none of its addresses can be used: fe80::1%eth0"):
        addresses_of("printer.local", 80)


class Names:
    """A resolver in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.free = threading.Event()
        monkeypatch.setattr(endpoints, "addresses_of", self.answer)

    def answer(self, host: str, port: int) -> list[str]:
        assert self.free.wait(30)
        if host not in self.addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return self.addresses[host]


def resolved(names: Names, of: Resolution) -> bool:
    """Asks if it is time to, waits until that is done; returns whether a call would have had to wait."""
    names.free.clear()
    waited_for, running = of.refresh(), of._running
    names.free.set()
    if running:
        running.result(30)
    return waited_for is not None


def test_a_name_is_asked_for_at_first_after_five_seconds_and_after_one_when_in_doubt(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, found = Names(monkeypatch), []
    names.addresses["a"] = ["10.0.0.1"]
    of_a = Resolution(["http://a"], found.append)
    assert resolved(names, of_a)
    assert found == [[Endpoint("http://10.0.0.1", "a", "a")]]
    for in_doubt, seconds, times in (
        (False, 4.9, 1),
        (False, 0.2, 2),
        (True, 0.9, 2),
        (False, 0.2, 3),
        (False, 4.9, 3),
    ):
        if in_doubt:
            of_a.doubt()
        clock.seconds += seconds
        assert not resolved(names, of_a)
        assert len(found) == times


def test_a_client_that_slept_for_a_minute_waits_for_new_addresses(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    names.addresses["a"] = ["10.0.0.1"]
    of_a = Resolution(["http://a"], lambda found: None)
    assert resolved(names, of_a)
    clock.seconds += 59
    assert not resolved(names, of_a)
    clock.seconds += 61
    assert resolved(names, of_a)


def test_an_address_that_two_names_have_is_one_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    names, found = Names(monkeypatch), []
    names.addresses = {"a": ["10.0.0.1", "10.0.0.2"], "b": ["10.0.0.2", "10.0.0.3"]}
    resolved(names, Resolution(["https://a", "https://b"], found.append))
    assert [(endpoint.url, endpoint.name) for endpoint in found[0]] == [
        ("https://10.0.0.1", "a"),
        ("https://10.0.0.2", "a"),
        ("https://10.0.0.3", "b"),
    ]


def test_a_name_that_is_gone_keeps_its_addresses_and_one_that_never_was_says_why(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, found = Names(monkeypatch), []
    names.addresses["a"] = ["10.0.0.1"]
    both = Resolution(["http://a", "http://b"], found.append)
    resolved(names, both)
    assert [endpoint.url for endpoint in found[-1]] == ["http://10.0.0.1"]
    assert both.problem == "http://b: Name or service not known"
    names.addresses = {"b": ["10.0.0.2"]}
    clock.seconds += 6
    resolved(names, both)
    assert [endpoint.url for endpoint in found[-1]] == ["http://10.0.0.1", "http://10.0.0.2"]
    names.addresses = {}
    clock.seconds += 6
    resolved(names, both)
    assert len(found) == 2
