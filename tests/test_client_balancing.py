"""Several replicas over HTTP: what each is sent, and what becomes of a call that one of them does not answer."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from client_calls import IMAGE, STOCK, async_batch, both
from client_certificates import NAME, certificate, needs_openssl, server_context
from client_command import ENVIRONMENT, label, photo_folder, run
from client_servers import LABELS, Gateway, answer_of, class_of, free_port, gateway, raw_server, read_request

from regnetx_client import (
    AsyncClient,
    BadRequest,
    Client,
    ConnectionFailed,
    Overloaded,
    RegnetError,
    Unavailable,
    endpoints,
    resolution,
)
from regnetx_client.failover import Budget

IMAGES = [str(number).encode() for number in range(60)]
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


@contextmanager
def gateways(hosts: list[str], **options: object) -> Iterator[list[Gateway]]:
    """One on each address, all on one port."""
    with ExitStack() as stack:
        first = stack.enter_context(gateway(host=hosts[0], **options))
        port = int(first.url.rpartition(":")[2])
        yield [first, *(stack.enter_context(gateway(host=host, port=port, **options)) for host in hosts[1:])]


def sync_calls(
    url: object, images: list[bytes], callers: int = 4, refusals: bool = False, **options: object
) -> list[object]:
    """The label of each image, asked for by a few callers of one client; with ``refusals`` the kinds of errors too."""
    with Client(url, **options) as client, ThreadPoolExecutor(callers) as threads:

        def one(image: bytes) -> object:
            try:
                return client.classify(image)[0].label
            except Unavailable as error:
                if refusals:
                    return type(error)
                raise

        return list(threads.map(one, images))


def async_calls(
    url: object, images: list[bytes], callers: int = 4, refusals: bool = False, **options: object
) -> list[object]:
    async def run() -> list[object]:
        free = asyncio.Semaphore(callers)
        async with AsyncClient(url, **options) as client:

            async def one(image: bytes) -> object:
                async with free:
                    try:
                        return (await client.classify(image))[0].label
                    except Unavailable as error:
                        if refusals:
                            return type(error)
                        raise

            return await asyncio.gather(*map(one, images))

    return asyncio.run(run())


many = pytest.mark.parametrize("calls", [sync_calls, async_calls], ids=["sync", "async"])
RIGHT = [LABELS[class_of(image)] for image in IMAGES]


# --- what is sent where --------------------------------------------------------------------------


@many
def test_each_of_several_urls_gets_its_share(calls: Callable) -> None:
    with gateway() as one, gateway() as two, gateway() as three:
        assert calls([one.url, two.url, three.url + "/models"], IMAGES, callers=1) == RIGHT
    assert [len(server.requests) for server in (one, two, three)] == [20, 20, 20]
    assert three.requests[0][0] == "/models/regnet/prediction"
    assert one.requests[0][1]["host"] == one.url.removeprefix("http://")


@many
def test_each_address_of_a_name_gets_its_share_and_is_told_the_name(
    calls: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: HOSTS if host == NAME else [])
    with gateways(HOSTS) as servers:
        port = servers[0].url.rpartition(":")[2]
        assert calls(f"http://{NAME}:{port}/models/", IMAGES, callers=1, all_addresses=True) == RIGHT
    assert [len(server.requests) for server in servers] == [20, 20, 20]
    for server in servers:
        assert {(path, headers["host"]) for path, headers, _ in server.requests} == {
            ("/models/regnet/prediction", f"{NAME}:{port}")
        }


@many
def test_without_being_asked_to_a_name_is_not_taken_apart(calls: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: pytest.fail("it was resolved"))
    with gateway() as server:
        assert calls([server.url], IMAGES) == RIGHT


@many
def test_a_replica_that_is_slow_gets_less_and_holds_nobody_up(calls: Callable) -> None:
    leave = threading.Event()
    with gateway() as slow, gateway() as one, gateway() as two:
        slow.refuse = lambda values: leave.wait(30) and None

        def others_done(values: list[str]) -> None:
            if len(one.requests) + len(two.requests) >= len(IMAGES) - 2:
                leave.set()

        one.refuse = two.refuse = others_done
        assert calls([slow.url, one.url, two.url], IMAGES) == RIGHT
    assert 1 <= len(slow.requests) <= 2


@needs_openssl
@both
def test_tls_asks_each_address_for_the_name_and_checks_it(
    classify_batch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: HOSTS)
    files = certificate(tmp_path)
    context, asked_for = server_context(files), []
    context.sni_callback = lambda connection, name, _: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(files[0]))
    kind = httpx.AsyncHTTPTransport if classify_batch is async_batch else httpx.HTTPTransport
    with gateways(HOSTS, tls=context) as servers:
        port = servers[0].url.rpartition(":")[2]
        options = {"all_addresses": True, "transport": kind(verify=trusting)}
        assert classify_batch(f"https://{NAME}:{port}", [IMAGE], **options)[0][0].label == LABELS[class_of(IMAGE)]
        assert asked_for == [NAME]
        other = {**options, "transport": kind(verify=trusting), "retries": 0}
        with pytest.raises(ConnectionFailed, match=r"(?i)certificate"):
            classify_batch(f"https://other.test:{port}", [IMAGE], **other)


@both
def test_addresses_are_reached_directly_whatever_proxy_the_environment_names(
    classify_batch: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: ["127.0.0.1"])
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with gateway() as server:
        port = server.url.rpartition(":")[2]
        with pytest.raises(ConnectionFailed):
            classify_batch(server.url, [IMAGE])
        classify_batch(f"http://{NAME}:{port}", [IMAGE], all_addresses=True)


# --- a replica that does not answer --------------------------------------------------------------


@many
def test_a_replica_that_is_down_costs_no_call_and_is_soon_left_alone(calls: Callable) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    tried: Counter[str] = Counter()
    with gateway() as one, gateway() as two:
        kind = httpx.AsyncHTTPTransport if calls is async_calls else httpx.HTTPTransport
        assert calls([down, one.url, two.url], IMAGES * 4, transport=counting(kind, tried)) == RIGHT * 4
        assert 1 <= tried[down] < 40
        assert min(len(server.requests) for server in (one, two)) > 60


def counting(kind: type, tried: Counter[str]) -> httpx.BaseTransport | httpx.AsyncBaseTransport:
    """httpx's own transport, that counts what it is given for each address."""

    def handle(self: object, request: httpx.Request) -> object:
        tried[f"{request.url.scheme}://{request.url.netloc.decode()}"] += 1
        method = "handle_async_request" if kind is httpx.AsyncHTTPTransport else "handle_request"
        return getattr(super(counted, self), method)(request)

    counted = type("Counting", (kind,), {"handle_request": handle, "handle_async_request": handle})
    return counted()


def refused(status: int, **headers: str) -> Callable[[list[str]], tuple[int, dict[str, str], bytes]]:
    return lambda values: (status, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@many
@pytest.mark.parametrize(
    "refuse",
    [refused(429), refused(503), refused(502), refused(429, retry_after="3600"), refused(503, retry_after="3600")],
    ids=["429", "503", "502", "429 later", "503 later"],
)
def test_what_one_refuses_another_is_asked_at_once(refuse: Callable, calls: Callable) -> None:
    with gateway() as full, gateway() as one, gateway() as two:
        full.refuse = refuse
        assert calls([full.url, one.url, two.url], IMAGES, timeout=20) == RIGHT
        assert 1 <= len(full.requests) <= 15


def broken(connection: socket.socket, over: threading.Event) -> None:
    """Reads the request, begins to answer, and dies."""
    read_request(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"err_no":0,')
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(connection: socket.socket, over: threading.Event) -> None:
    read_request(connection)


@many
@pytest.mark.parametrize("serve", [broken, silent])
def test_a_connection_that_breaks_in_the_middle_is_no_lost_call(serve: Callable, calls: Callable) -> None:
    with raw_server(serve) as port, gateway() as one, gateway() as two:
        assert calls([f"http://127.0.0.1:{port}", one.url, two.url], IMAGES) == RIGHT


@many
def test_an_answer_that_draining_cut_short_is_asked_for_elsewhere(calls: Callable) -> None:
    closed = json.dumps({**STOCK, "err_no": 3001, "err_msg": "dag closed.", "key": [], "value": []}).encode()
    with gateway() as leaving, gateway() as one:
        leaving.refuse = lambda values: (200, {}, closed)
        assert calls([leaving.url, one.url], IMAGES) == RIGHT
        assert len(leaving.requests) >= 1


@both
@pytest.mark.parametrize("status", [400, 408, 413, 500, 504])
def test_nothing_else_is_asked_twice(status: int, classify_batch: Callable) -> None:
    with gateway() as one, gateway() as two:
        one.refuse = two.refuse = refused(status)
        with pytest.raises(RegnetError):
            classify_batch([one.url, two.url], [IMAGE], retries=5)
        assert len(one.requests) + len(two.requests) == 1


@both
@pytest.mark.parametrize(("options", "attempts"), [({}, 3), ({"retries": 0}, 1), ({"retries": 1}, 2)])
def test_no_more_is_tried_than_allowed_and_each_time_another(
    options: dict, attempts: int, classify_batch: Callable
) -> None:
    with gateway() as one, gateway() as two, gateway() as three:
        for server in (one, two, three):
            server.refuse = refused(503)
        with pytest.raises(Unavailable):
            classify_batch([one.url, two.url, three.url], [IMAGE], **options)
        made = sorted(len(server.requests) for server in (one, two, three))
        assert made == [0] * (3 - attempts) + [1] * attempts


@many
def test_retries_end_where_the_budget_ends(calls: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "most", 10.0)
    with gateway() as one, gateway() as two:
        one.refuse = two.refuse = refused(503)
        refusals = calls([one.url, two.url], IMAGES, callers=1, retries=1, refusals=True)
        assert refusals == [Unavailable] * 60
        assert len(one.requests) + len(two.requests) == 60 + 10


@both
def test_when_all_are_down_the_last_is_named(classify_batch: Callable) -> None:
    urls = [f"http://127.0.0.{number}:{free_port()}" for number in (1, 2, 3)]
    with pytest.raises(ConnectionFailed, match=r"http://127\.0\.0\.\d:") as caught:
        classify_batch(urls, [IMAGE])
    assert caught.value.sent is False


@both
def test_when_all_are_full_the_time_they_name_is_waited_for(classify_batch: Callable) -> None:
    with gateway() as one, gateway() as two:
        one.refuse = two.refuse = refused(429, retry_after="3600")
        with pytest.raises(Overloaded) as caught:
            classify_batch([one.url, two.url], [IMAGE], retries=9)
        assert caught.value.retry_after == 3600
        assert (len(one.requests), len(two.requests)) == (1, 1)
        one.refuse = two.refuse = lambda values: (
            refused(429, retry_after="0")(values) if len(one.requests) + len(two.requests) <= 6 else None
        )
        assert classify_batch([one.url, two.url], [IMAGE], retries=9)[0][0].label == LABELS[class_of(IMAGE)]


@many
def test_a_server_that_closes_its_connections_politely_costs_no_call(calls: Callable) -> None:
    with gateway() as one, gateway() as two:
        one.refuse = two.refuse = lambda values: (
            200,
            {"connection": "close", "content-type": "application/json"},
            json.dumps(answer_of(["image"], values)).encode(),
        )
        assert calls([one.url, two.url], IMAGES, retries=0) == RIGHT
        assert calls(one.url, IMAGES) == RIGHT
        assert len(one.connections) + len(two.connections) == 120


# --- names ---------------------------------------------------------------------------------------


@many
def test_an_address_that_is_new_gets_its_share_and_one_that_is_gone_nothing(
    calls: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ["127.0.0.1", "127.0.0.2"]
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: list(known))
    monkeypatch.setattr(resolution, "_FRESH", 0.0)
    with gateways(HOSTS) as servers:

        def swap(values: list[str]) -> None:
            if sum(len(server.requests) for server in servers) >= 30:
                known[:] = ["127.0.0.1", "127.0.0.3"]

        servers[0].refuse = servers[1].refuse = swap
        url = f"http://{NAME}:{servers[0].url.rpartition(':')[2]}"
        assert calls(url, IMAGES * 3, callers=1, all_addresses=True) == RIGHT * 3
        first, second, third = (len(server.requests) for server in servers)
        assert first > 60
        assert second < 30
        assert third > 60


@both
def test_a_name_without_addresses_is_a_failed_connection(classify_batch: Callable) -> None:
    with pytest.raises(ConnectionFailed, match=r"^http://nowhere\.invalid:1: ") as caught:
        classify_batch("http://nowhere.invalid:1", [IMAGE], all_addresses=True)
    assert caught.value.sent is False


@both
def test_a_resolver_that_does_not_answer_is_not_waited_for_longer_than_to_connect(
    classify_batch: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: over.wait(30) and [])
    with pytest.raises(ConnectionFailed, match="no address of this name in the time allowed") as caught:
        classify_batch(f"http://{NAME}", [IMAGE], all_addresses=True, connect_timeout=0.1, retries=0)
    assert caught.value.sent is False
    over.set()


async def test_a_call_that_is_cancelled_while_the_name_is_looked_for_leaves_the_client_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, free = threading.Event(), threading.Event()
    monkeypatch.setattr(endpoints, "addresses_of", lambda host, port: asked.set() or (free.wait(30) and ["127.0.0.1"]))
    with gateway() as server:
        async with AsyncClient(f"http://{NAME}:{server.url.rpartition(':')[2]}", all_addresses=True) as client:
            call = asyncio.create_task(client.classify(IMAGE))
            await asyncio.to_thread(asked.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            free.set()
            assert (await client.classify(IMAGE))[0].label == LABELS[class_of(IMAGE)]


# --- readiness, the command ----------------------------------------------------------------------


async def test_a_service_is_ready_when_one_replica_is() -> None:
    down = [f"http://127.0.0.1:{free_port()}", f"http://127.0.0.2:{free_port()}"]
    with gateway(knows_top_k=True) as server:
        for urls, ready in (([*down, server.url], True), (down, False)):
            with Client(urls) as client:
                assert client.is_ready() is ready
            async with AsyncClient(urls) as other:
                assert await other.is_ready() is ready
    with gateway() as stock, Client([stock.url, down[0]]) as client, pytest.raises(BadRequest, match="404"):
        client.is_ready()


@pytest.mark.parametrize("together", [False, True], ids=["repeated", "commas"])
def test_the_command_spreads_its_requests(together: bool, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path)
    with gateway(knows_top_k=True) as one, gateway(knows_top_k=True) as two:
        urls = ["--url", f"{one.url},{two.url}"] if together else ["--url", one.url, "--url", two.url]
        done = run("predict", ".", *urls, "--concurrency", "1", cwd=photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[0].split("\t")[3] == label("a.jpg")
    assert sorted(len(server.requests) for server in (one, two)) == [2, 3]


def test_the_command_asks_all_addresses_of_a_name(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path)
    with gateway(knows_top_k=True) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert run("predict", ".", "--url", url, "--all-addresses", cwd=photos).returncode == 0
        host = {headers["host"] for _, headers, _ in server.requests}
    assert host == {url.removeprefix("http://")}
    assert "HTTP_PROXY" not in ENVIRONMENT
