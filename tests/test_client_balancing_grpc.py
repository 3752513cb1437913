"""Several replicas over gRPC: who is called, who is left out, and what becomes of a call that is not answered."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from client_calls import IMAGE
from client_calls import both_grpc as both
from client_certificates import NAME, certificate, needs_openssl
from client_command import label, photo_folder, run
from client_pipeline import Pipeline, pipeline, refusing
from client_servers import LABELS, class_of, free_port, raw_server
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from name_server import name_server
from running import wait_for

import regnetx_client.grpc
from regnetx_client import ConnectionFailed, Overloaded, RegnetError, Unavailable
from regnetx_client.addresses import Target, target_of
from regnetx_client.failover import Budget
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
IMAGES = [str(number).encode() for number in range(60)]
RIGHT = [LABELS[class_of(image)] for image in IMAGES]


@contextmanager
def pipelines(hosts: list[str] = HOSTS, **options: object) -> Iterator[list[Pipeline]]:
    """One on each address, all on one port."""
    with ExitStack() as stack:
        first = stack.enter_context(pipeline(address=f"{hosts[0]}:0", **options))
        port = first.address.rpartition(":")[2]
        yield [first, *(stack.enter_context(pipeline(address=f"{host}:{port}", **options)) for host in hosts[1:])]


class Caller:
    """One client, waiting or for asyncio, that is asked from the test's thread."""

    def __init__(self, kind: type, address: object, **options: object) -> None:
        self._loop = asyncio.new_event_loop() if kind is AsyncGrpcClient else None
        self.client = kind(address, **options)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        closing = self.client.close()
        if self._loop:
            self._loop.run_until_complete(closing)
            self._loop.close()

    def labels(self, images: list[bytes]) -> list[str]:
        """One call after the other."""
        if self._loop is None:
            return [self.client.classify(image)[0].label for image in images]

        async def run() -> list[str]:
            return [(await self.client.classify(image))[0].label for image in images]

        return self._loop.run_until_complete(run())

    def reaches(self, *servers: Pipeline) -> None:
        """Calls until there is a connection to each of these servers."""

        def reached() -> bool:
            clear(servers)
            self.labels(IMAGES[: 2 * len(servers)])
            return all(server.requests for server in servers)

        wait_for(reached)


kinds = pytest.mark.parametrize("kind", [GrpcClient, AsyncGrpcClient], ids=["sync", "async"])


def counts(servers: list[Pipeline]) -> list[int]:
    return [len(server.requests) for server in servers]


def clear(servers: Iterable[Pipeline]) -> None:
    for server in servers:
        server.requests.clear()


# --- who is called -------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("together", [False, True], ids=["list", "commas"])
def test_each_of_several_addresses_gets_its_share(kind: type, together: bool) -> None:
    with pipelines() as servers:
        addresses = [server.address for server in servers]
        with Caller(kind, ",".join(addresses) if together else addresses) as caller:
            caller.reaches(*servers)
            clear(servers)
            assert caller.labels(IMAGES) == RIGHT
    assert counts(servers) == [20, 20, 20]


@kinds
def test_each_address_of_a_name_gets_its_share(kind: type) -> None:
    with pipelines() as servers, name_server(NAME, HOSTS) as names:
        port = int(servers[0].address.rpartition(":")[2])
        with Caller(kind, names.target(port)) as caller:
            caller.reaches(*servers)
            clear(servers)
            assert caller.labels(IMAGES) == RIGHT
    assert counts(servers) == [20, 20, 20]


@kinds
def test_one_address_is_one_connection_to_one_server(kind: type) -> None:
    with pipelines() as servers, Caller(kind, [servers[1].address]) as caller:
        assert caller.labels(IMAGES) == RIGHT
    assert counts(servers) == [0, 60, 0]


def no_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return False
    return True


@pytest.mark.skipif(no_ipv6(), reason="this machine has no IPv6")
def test_ipv4_and_ipv6_can_be_mixed() -> None:
    with pipeline() as one, pipeline(address="[::1]:0") as two, GrpcClient([one.address, two.address]) as client:
        wait_for(lambda: client.classify(IMAGE) and one.requests and two.requests)


TARGETS = [
    ("localhost:9993", Target("localhost:9993", balanced=False)),
    (["10.0.0.1:9993"], Target("10.0.0.1:9993", balanced=False)),
    ("dns:///regnetx:9993", Target("dns:///regnetx:9993", balanced=True)),
    ("dns://10.0.0.53/regnetx:9993", Target("dns://10.0.0.53/regnetx:9993", balanced=True)),
    ("dns:regnetx:9993", Target("dns:regnetx:9993", balanced=True)),
    ("10.0.0.1:1, 10.0.0.2:2,10.0.0.1:1", Target("ipv4:10.0.0.1:1,10.0.0.2:2", balanced=True, first="10.0.0.1:1")),
    (["[::1]:1", "[::2]:2"], Target("ipv6:[::1]:1,[::2]:2", balanced=True, first="[::1]:1")),
    (["[::1]:1", "10.0.0.2:2"], Target("ipv6:[::1]:1,[::ffff:10.0.0.2]:2", balanced=True, first="[::1]:1")),
]


@pytest.mark.parametrize(("address", "target"), TARGETS, ids=[str(address) for address, _ in TARGETS])
def test_an_address_is_a_target_of_grpc(address: object, target: Target) -> None:
    assert target_of(address) == target


WRONG = [
    ([], "no address is given"),
    (["a:1", "10.0.0.1:1"], "address 'a:1' is one of several and not like 10.0.0.1:9993"),
    ("10.0.0.1:1,", "address '' is one of several"),
    (["10.0.0.1", "10.0.0.2:1"], "address '10.0.0.1' is one of several"),
    (["10.0.0.1:0", "10.0.0.2:1"], "address '10.0.0.1:0' is one of several"),
    (["10.0.0.1:70000", "10.0.0.2:1"], "address '10.0.0.1:70000' is one of several"),
    (["::1:1", "10.0.0.2:1"], "address '::1:1' is one of several"),
    ("dns:///regnetx", "address 'dns:///regnetx' is not like dns:///name:9993"),
    ("dns:///", "address 'dns:///' is not like dns:///name:9993"),
    ("dns://regnetx:9993", "address 'dns://regnetx:9993' is not like dns:///name:9993"),
]


@pytest.mark.parametrize(("address", "message"), WRONG, ids=[str(address) for address, _ in WRONG])
def test_an_address_that_cannot_be_balanced_is_refused_at_once(address: object, message: str) -> None:
    for kind in (GrpcClient, AsyncGrpcClient):
        with pytest.raises(ValueError) as caught:
            kind(address)
        assert str(caught.value).startswith(message)


def server_credentials(files: tuple[Path, Path]) -> grpc.ServerCredentials:
    certificate_file, key = files
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate_file.read_bytes())])


@needs_openssl
@kinds
def test_tls_checks_the_name_that_all_addresses_stand_for(kind: type, tmp_path: Path) -> None:
    files = certificate(tmp_path)
    trusting = grpc.ssl_channel_credentials(files[0].read_bytes())
    with pipelines(credentials=server_credentials(files)) as servers, name_server(NAME, HOSTS) as names:
        addresses = [server.address for server in servers]
        port = int(addresses[0].rpartition(":")[2])
        for address, authority in ((addresses, NAME), (names.target(port), None)):
            with Caller(kind, address, credentials=trusting, authority=authority) as caller:
                caller.reaches(*servers)
        with (
            Caller(kind, addresses, credentials=trusting, authority="other.test", retries=0) as caller,
            pytest.raises((ConnectionFailed, Unavailable)),
        ):
            caller.labels([IMAGE])
        with pytest.raises(ValueError, match="credentials with several addresses need authority"):
            kind(addresses, credentials=trusting)


# --- who is left out -----------------------------------------------------------------------------


def said(health: HealthServicer, serving: bool) -> None:
    health.set("", HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)


@contextmanager
def with_health() -> Iterator[tuple[list[Pipeline], list[HealthServicer]]]:
    """Three servers, of which the third has no health service at all."""
    with ExitStack() as stack:
        health = [HealthServicer(), HealthServicer()]
        servers = [stack.enter_context(pipeline(watched=servicer)) for servicer in health]
        for servicer in health:
            said(servicer, serving=True)
        yield [*servers, stack.enter_context(pipeline())], health


@kinds
def test_a_replica_that_says_it_is_not_serving_gets_no_call_until_it_is(kind: type) -> None:
    with (
        with_health() as (servers, health),
        Caller(kind, [server.address for server in servers], retries=0) as caller,
    ):
        caller.reaches(*servers)
        said(health[0], serving=False)
        # What it says takes a moment to arrive.
        wait_for(lambda: clear(servers) or (caller.labels(IMAGES[:6]) and counts(servers)[0] == 0))
        clear(servers)
        assert caller.labels(IMAGES) == RIGHT
        assert counts(servers) == [0, 30, 30]
        said(health[0], serving=True)
        caller.reaches(*servers)


@kinds
def test_without_checking_health_all_are_called(kind: type) -> None:
    with with_health() as (servers, health):
        said(health[0], serving=False)
        with Caller(kind, [server.address for server in servers], check_health=False) as caller:
            caller.reaches(*servers)


@kinds
def test_when_no_replica_is_serving_the_service_is_unavailable_and_not_ready(kind: type) -> None:
    with with_health() as (servers, health):
        for servicer in health:
            said(servicer, serving=False)
        with Caller(kind, [server.address for server in servers[:2]]) as caller, pytest.raises(Unavailable):
            caller.labels([IMAGE])
        with GrpcClient([server.address for server in servers[:2]]) as client:
            assert not client.is_ready()
            said(health[1], serving=True)
            wait_for(client.is_ready)


# --- a call that is not answered -----------------------------------------------------------------


@kinds
def test_a_replica_that_is_down_costs_no_call(kind: type) -> None:
    with pipelines(HOSTS[:2]) as servers:
        addresses = [f"127.0.0.3:{free_port()}", *(server.address for server in servers)]
        with Caller(kind, addresses, retries=0) as caller:
            assert caller.labels(IMAGES) == RIGHT


@kinds
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize("metadata", [[], [("retry-after", "3600")]], ids=["", "later"])
def test_what_one_refuses_another_is_asked_at_once(kind: type, code: grpc.StatusCode, metadata: list) -> None:
    with pipelines() as servers, Caller(kind, [server.address for server in servers], timeout=20) as caller:
        caller.reaches(*servers)
        servers[0].respond = refusing(code, "full", *metadata)
        clear(servers)
        assert caller.labels(IMAGES) == RIGHT
        assert counts(servers)[0] >= 10


@kinds
def test_a_server_that_stops_in_the_middle_costs_no_call(kind: type) -> None:
    entered, leave = threading.Event(), threading.Event()
    handler = Pipeline(respond=lambda *_: entered.set() or (leave.wait(30) and None))
    generic = type("Handler", (grpc.GenericRpcHandler,), {"service": lambda self, details: handler.service(details)})
    with pipeline() as other, ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as calling:
        server = grpc.server(threads, handlers=[generic()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Caller(kind, [f"127.0.0.1:{port}", other.address]) as caller:
            labels = calling.submit(caller.labels, IMAGES)
            assert entered.wait(30)
            server.stop(0)
            leave.set()
            assert labels.result(60) == RIGHT


@kinds
@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN])
def test_nothing_else_is_asked_twice(kind: type, code: grpc.StatusCode) -> None:
    with pipelines() as servers:
        for server in servers:
            server.respond = refusing(code, "why")
        with Caller(kind, [server.address for server in servers], retries=5) as caller, pytest.raises(RegnetError):
            caller.labels([IMAGE])
        assert sum(counts(servers)) == 1


@kinds
@pytest.mark.parametrize(("options", "attempts"), [({}, 3), ({"retries": 0}, 1), ({"retries": 1}, 2)])
def test_no_more_is_tried_than_allowed(kind: type, options: dict, attempts: int) -> None:
    with pipelines() as servers:
        for server in servers:
            server.respond = refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        with Caller(kind, [server.address for server in servers], **options) as caller, pytest.raises(Overloaded):
            caller.labels([IMAGE])
        assert sum(counts(servers)) == attempts


@kinds
def test_retries_end_where_the_budget_ends(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "most", 10.0)
    with pipelines() as servers:
        for server in servers:
            server.respond = refusing(grpc.StatusCode.UNAVAILABLE, "full")
        with Caller(kind, [server.address for server in servers], retries=1) as caller:
            for _ in range(30):
                with pytest.raises(Unavailable):
                    caller.labels([IMAGE])
        assert sum(counts(servers)) == 30 + 10


@kinds
def test_when_all_are_down_it_is_a_failed_connection(kind: type) -> None:
    addresses = [f"127.0.0.{number}:{free_port()}" for number in (1, 2, 3)]
    with Caller(kind, addresses) as caller, pytest.raises(ConnectionFailed) as caught:
        caller.labels([IMAGE])
    assert caught.value.sent is False


@kinds
def test_a_replica_that_never_speaks_holds_nobody_up(kind: type) -> None:
    with (
        raw_server(lambda connection, over: over.wait(30)) as port,
        pipeline() as server,
        Caller(kind, [f"127.0.0.1:{port}", server.address], timeout=20, retries=0) as caller,
    ):
        assert caller.labels(IMAGES) == RIGHT


# --- connections that end ------------------------------------------------------------------------


@kinds
def test_connections_that_a_server_ends_for_their_age_cost_no_call_and_lead_to_new_addresses(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sooner than usual, for a test that is quick.
    soon = [option for option in regnetx_client.grpc._OPTIONS if "resolutions" not in option[0]]
    monkeypatch.setattr(regnetx_client.grpc, "_OPTIONS", (*soon, ("grpc.dns_min_time_between_resolutions_ms", 100)))
    short = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)]
    with pipelines(options=short) as servers, name_server(NAME, HOSTS[:2]) as names:
        port = int(servers[0].address.rpartition(":")[2])
        with Caller(kind, names.target(port), retries=0) as caller:
            caller.reaches(*servers[:2])
            # Only the end of a connection makes gRPC ask again.
            names.addresses.append(HOSTS[2])
            wait_for(lambda: caller.labels(IMAGES) == RIGHT and servers[2].requests)
            for _ in range(5):
                assert caller.labels(IMAGES) == RIGHT
    assert min(len(server.peers) for server in servers[:2]) > 1


@both
def test_a_single_server_that_ends_connections_for_their_age_costs_no_call(classify_batch: Callable) -> None:
    short = [("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 5000)]
    with pipeline(options=short) as server, GrpcClient(server.address) as client:
        while len(server.peers) < 3:
            assert [row[0].label for row in client.classify_batch(IMAGES)] == RIGHT
        assert [row[0].label for row in classify_batch(server.address, IMAGES)] == RIGHT


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True], ids=["repeated", "commas"])
def test_the_command_spreads_its_calls(together: bool, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path)
    for number in range(100):
        (photos / f"{number}.png").write_bytes(str(number).encode())
    with pipelines(HOSTS[:2]) as servers:
        first, second = (server.address for server in servers)
        addresses = ["--address", f"{first},{second}"] if together else ["--address", first, "--address", second]
        done = run("predict", ".", "--grpc", *addresses, "--concurrency", "2", cwd=photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"./a.jpg\t1\t\t{label('a.jpg')}\t" in done.stdout
    assert sum(counts(servers)) == 105
    assert min(counts(servers)) > 0
