"""Three real replicas, one that is killed and one that is added under load: every call is answered, by a live one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from calling import stopped
from name_server import name_server
from replica_set import NAME, SAMPLES, Load, ReplicaSet, replica_set, under_load
from running import wait_for

from regnetx_client import AsyncClient, Client, ConnectionFailed, DeadlineExceeded, Overloaded, endpoints
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient

FIRST, SECOND, THIRD, ADDED, SMALL, AGING = (f"127.0.0.{number}" for number in range(1, 7))
KINDS = ["sync HTTP", "async HTTP", "sync gRPC", "async gRPC"]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, digits_model: Path) -> Iterator[ReplicaSet]:
    with replica_set(tmp_path_factory.mktemp("replicas"), digits_model) as running:
        yield running


def clients_of(url: Any, address: Any, **options: Any) -> dict[str, Any]:
    """The four clients, not opened yet."""
    over_http = {"all_addresses": isinstance(url, str), **options}
    return {
        "sync HTTP": partial(Client, url, **over_http),
        "async HTTP": partial(AsyncClient, url, **over_http),
        "sync gRPC": partial(GrpcClient, address, **options),
        "async gRPC": partial(AsyncGrpcClient, address, **options),
    }


@dataclass(frozen=True)
class Story:
    """What happened, and when."""

    loads: dict[str, Load]
    killed: float
    added: float


@pytest.fixture(scope="module")
def story(replicas: ReplicaSet) -> Iterator[Story]:
    """One replica is killed with all its processes, a new one comes in its place at another address."""
    replicas.complete()
    with pytest.MonkeyPatch.context() as patch, name_server(NAME, [FIRST, SECOND, THIRD]) as names:
        patch.setattr(endpoints, "addresses_of", lambda host, port: list(names.addresses))
        clients = clients_of(f"http://{NAME}:{replicas.http_port}", names.target(replicas.rpc_port))
        with under_load(clients) as loads:
            wait_for(lambda: all(min(load.hosts()[host] for host in names.addresses) >= 5 for load in loads.values()))
            replicas.kill(THIRD)
            killed = time.monotonic()
            wait_for(lambda: all(load.hosts(killed).total() >= 60 for load in loads.values()))
            replicas.start(ADDED)
            added = time.monotonic()
            names.addresses[:] = [FIRST, SECOND, ADDED]
            wait_for(lambda: all(load.hosts(added)[ADDED] >= 10 for load in loads.values()))
        yield Story(loads, killed, added)


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_is_lost_when_a_replica_is_killed_and_each_is_answered_for_its_own_image(kind: str, story: Story):
    load = story.loads[kind]
    assert load.errors == []
    assert [one for one in load.outcomes if one.label != one.expected] == []
    assert len(load.outcomes) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_survivors_share_the_load(kind: str, story: Story):
    shares = story.loads[kind].hosts(story.killed, story.added)
    assert set(shares) == {FIRST, SECOND}
    assert min(shares.values()) > 0.25 * shares.total()


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_that_is_added_gets_its_share(kind: str, story: Story):
    load = story.loads[kind]
    first = min(one.began for one in load.outcomes if one.host == ADDED)
    shares = load.hosts(first)
    assert set(shares) == {FIRST, SECOND, ADDED}
    assert shares[ADDED] > 0.1 * shares.total()


def test_a_replica_that_is_told_to_stop_costs_no_call(replicas: ReplicaSet):
    replicas.complete()
    clients = clients_of(replicas.urls, replicas.addresses)
    # Health checking alone has to do: nothing is tried again.
    clients["sync gRPC"] = partial(GrpcClient, replicas.addresses, retries=0)
    clients["async gRPC"] = partial(AsyncGrpcClient, replicas.addresses, retries=0)
    leaving, *others = replicas.running
    with under_load(clients) as loads:
        wait_for(lambda: all(min(load.hosts()[host] for host in (leaving, *others)) >= 5 for load in loads.values()))
        assert replicas.terminate(leaving) == 0
        gone = time.monotonic()
        wait_for(lambda: all(load.hosts(gone).total() >= 30 for load in loads.values()))
    for load in loads.values():
        assert load.errors == []
        assert [one for one in load.outcomes if one.label != one.expected] == []
        assert set(load.hosts(gone)) == set(others)


def test_connections_that_a_replica_ends_for_their_age_cost_no_call(replicas: ReplicaSet):
    [aging] = replicas.start(AGING, max_connection_age_ms=200)
    with under_load(clients_of([aging.url], [aging.rpc], retries=0)) as loads:
        began = time.monotonic()
        wait_for(lambda: all(load.hosts(began + 1).total() >= 20 for load in loads.values()))
    for load in loads.values():
        assert load.errors == []
        assert [one for one in load.outcomes if one.label != one.expected] == []
    replicas.kill(AGING)


def answers(opened: Any, count: int) -> list[tuple[str, str]]:
    """That many calls one after the other: (label expected, label@host got)."""
    client = opened()
    if isinstance(client, Client | GrpcClient):
        with client:
            return [(stem, client.classify(image)[0].label) for image, stem in (SAMPLES * count)[:count]]

    async def run() -> list[tuple[str, str]]:
        async with client:
            return [(stem, (await client.classify(image))[0].label) for image, stem in (SAMPLES * count)[:count]]

    return asyncio.run(run())


def test_what_a_full_replica_refuses_is_answered_by_another(replicas: ReplicaSet):
    replicas.complete()
    [small] = replicas.start(SMALL, slots=1)
    free = next(host for host in replicas.running if host != SMALL)
    urls = [f"http://{host}:{replicas.http_port}" for host in (SMALL, free)]
    addresses = [f"{host}:{replicas.rpc_port}" for host in (SMALL, free)]
    with ThreadPoolExecutor(1) as pool, Client(small.url, timeout=60) as waiting:
        with stopped(*small.children()["engine"]):
            call = pool.submit(waiting.classify, SAMPLES[0][0])
            wait_for(lambda: is_full(small.rpc))
            for opened in clients_of(urls, addresses, retries=0).values():
                with pytest.raises(Overloaded):
                    answers(opened, 30)
            # More retries than the usual two: gRPC may not have reached the free one yet, and then chooses blindly.
            for opened in clients_of(urls, addresses, retries=8).values():
                got = answers(opened, 30)
                assert got == [(expected, f"{expected}@{free}") for expected, _ in got]
        assert call.result()[0].label == f"{SAMPLES[0][1]}@{SMALL}"
    replicas.kill(SMALL)


def is_full(address: str) -> bool:
    with GrpcClient(address, timeout=0.5) as client:
        try:
            client.classify(SAMPLES[1][0])
        except Overloaded:
            return True
        except DeadlineExceeded:  # it came before the call that was to fill it
            return False
    raise AssertionError("the engine was to stand still")


def test_when_all_replicas_are_gone_each_call_says_so(replicas: ReplicaSet):
    replicas.complete()
    clients = clients_of(replicas.urls, replicas.addresses)
    with clients["sync HTTP"]() as over_http, clients["sync gRPC"]() as over_grpc:
        for client in (over_http, over_grpc):
            assert client.classify(SAMPLES[0][0])[0].label.startswith(f"{SAMPLES[0][1]}@")
        for host in list(replicas.running):
            replicas.kill(host)
        for client in (over_http, over_grpc, over_http, over_grpc):
            with pytest.raises(ConnectionFailed):
                client.classify(SAMPLES[0][0])
            assert not client.is_ready()
    for kind in ("async HTTP", "async gRPC"):
        with pytest.raises(ConnectionFailed):
            answers(clients[kind], 1)
