"""Bearer tokens at both doors: who gets in, what refused callers learn, and that tokens are renewed and never told."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys

import grpc
import pytest
import yaml
from calling import BODY
from client_command import COMMAND, ENVIRONMENT
from grpc_health.v1 import health_pb2
from guarded import SECONDS, call, channel, guarded, post
from running import ROOT, quick, wait_for
from scraping import ADMIN, Scrape

from regnetx_client import BadRequest, Client
from regnetx_client.grpc import GrpcClient
from service.config import Native
from service.errors import ConfigError, UnauthenticatedError
from service.native.door_security import verify_doors
from service.native.tokens import VARIABLE, read_tokens
from serving_models.bundled.digits.held_out import held_out

FIRST, SECOND, OF_ENVIRONMENT = "first-token-0123456789", "second.token~0123456789", "environment+token/0123="
WRONG = "wrong-token-0123456789"
SECRETS = (FIRST, SECOND, OF_ENVIRONMENT, WRONG)
HEALTH, REFLECTION = "/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"# who may ask\n\nalice: {FIRST}\n")
    return path


@pytest.fixture(scope="module")
def closed(digits_model, tmp_path_factory, file):
    config = quick(
        digits_model, native={"tokens_file": str(file), "access_log": True, "log_format": "json"},
        dag=ADMIN,
    )  # fmt: skip
    with guarded(tmp_path_factory.mktemp("closed"), config, **{VARIABLE: f"bob: {OF_ENVIRONMENT}"}) as running:
        yield running


@pytest.fixture
def service(closed):
    return closed.service


def test_both_doors_answer_who_shows_a_token_of_the_file_or_of_the_environment(service):
    for token in (FIRST, OF_ENVIRONMENT):
        for scheme in ("Bearer", "bearer"):
            assert post(service, Authorization=f"{scheme} {token}")[0] == 200
        assert call(channel(service), ("authorization", f"Bearer {token}")) is grpc.StatusCode.OK


@pytest.mark.parametrize("shown", [WRONG, FIRST[:-1], FIRST + "0", FIRST.upper(), "", "é" * 20])
def test_others_get_401_and_unauthenticated(service, shown):
    status, headers, body = post(service, Authorization=f"Bearer {shown}")
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert json.loads(body)["code"] == 16
    assert json.loads(body)["message"] == "the authorization is not accepted; accepted: Bearer and a token"
    if shown.isascii():
        assert call(channel(service), ("authorization", f"Bearer {shown}")) is grpc.StatusCode.UNAUTHENTICATED


def test_no_token_and_another_scheme_are_not_enough(service):
    status, _, body = post(service)
    assert status == 401
    assert json.loads(body)["message"] == "authorization is missing; accepted: Bearer and a token"
    assert call(channel(service)) is grpc.StatusCode.UNAUTHENTICATED
    for authorization in (f"Basic {FIRST}", FIRST):
        assert post(service, Authorization=authorization)[0] == 401
        assert call(channel(service), ("authorization", authorization)) is grpc.StatusCode.UNAUTHENTICATED


def test_two_tokens_are_none(service):
    with contextlib.closing(http.client.HTTPConnection(service.http, timeout=SECONDS)) as asking:
        asking.putrequest("POST", "/regnet/prediction")
        for token in (WRONG, FIRST):
            asking.putheader("Authorization", f"Bearer {token}")
        asking.putheader("Content-Length", str(len(BODY)))
        asking.endheaders(BODY.encode())
        assert asking.getresponse().status == 401
    pairs = [("authorization", f"Bearer {token}") for token in (WRONG, FIRST)]
    assert call(channel(service), *pairs) is grpc.StatusCode.UNAUTHENTICATED


def test_no_path_is_told_to_who_shows_no_token(service):
    with contextlib.closing(http.client.HTTPConnection(service.http, timeout=SECONDS)) as asking:
        asking.request("GET", "/no/such")
        assert asking.getresponse().status == 401


def test_a_refusal_comes_before_the_body(service):
    host, port = service.http.split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
        head = "POST /regnet/prediction HTTP/1.1\r\nhost: a\r\ncontent-length: 60000000\r\nexpect: 100-continue\r\n\r\n"
        plain.sendall(head.encode())
        heard = b""
        while piece := plain.recv(4096):
            heard += piece
    assert heard.startswith(b"HTTP/1.1 401 ")


def test_a_large_message_of_a_stranger_is_not_read(service):
    """It is over the bound on messages, which would be said otherwise."""
    large = b"\0" * (65 << 20)
    assert call(channel(service), packet=large) is grpc.StatusCode.UNAUTHENTICATED


def test_health_and_reflection_need_no_token(service):
    for path in ("/healthz", "/readyz"):
        with contextlib.closing(http.client.HTTPConnection(service.http, timeout=SECONDS)) as asking:
            asking.request("GET", path)
            assert asking.getresponse().status == 200
    with channel(service) as asking:
        answer = health_pb2.HealthCheckResponse.FromString(asking.unary_unary(HEALTH)(b"", timeout=SECONDS))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        [listed] = asking.stream_stream(REFLECTION)(iter([b"\x3a\x00"]), timeout=SECONDS)
        assert b"PipelineService" in listed


def test_the_client_and_its_command_show_a_token(service, tmp_path, monkeypatch):
    image, token_file = tmp_path / "image.png", tmp_path / "token"
    image.write_bytes(held_out().images[0])
    token_file.write_text(f"{FIRST}\n")
    for door in (["--url", service.url], ["--grpc", "--address", service.rpc]):
        command = [*COMMAND, "predict", str(image), *door]
        run = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 60}
        for more, environment, status in (
            (["--token-file", str(token_file)], {}, 0), ([], {"REGNETX_TOKEN": OF_ENVIRONMENT}, 0),
            ([], {"REGNETX_TOKEN": WRONG}, 1),
        ):  # fmt: skip
            result = subprocess.run([*command, *more], env={**ENVIRONMENT, **environment}, **run)
            assert result.returncode == status, result.stderr
            assert not any(secret in result.stdout + result.stderr for secret in SECRETS)
    for kind, target in ((Client, service.url), (GrpcClient, service.rpc)):
        with kind(target, token=FIRST) as client:
            assert client.classify(image)
        with kind(target, token=WRONG) as client, pytest.raises(BadRequest) as refused:
            client.classify(image)
        assert WRONG not in str(refused.value) + repr(refused.value) + repr(client)


def test_refusals_are_counted_and_the_log_has_names_alone(closed, service):
    before = refusals(service)
    post(service, Authorization=f"Bearer {WRONG}", **{"X-Request-Id": "refused-1"})
    call(channel(service), ("x-request-id", "refused-2"))
    post(service, Authorization=f"Bearer {FIRST}", **{"X-Request-Id": "named-1"})
    call(channel(service), ("authorization", f"Bearer {OF_ENVIRONMENT}"), ("x-request-id", "named-2"))
    assert refusals(service) == [count + 1 for count in before]
    for identity, caller, outcome in (
        ("refused-1", None, "unauthenticated"), ("refused-2", None, "unauthenticated"),
        ("named-1", "alice", "answered"), ("named-2", "bob", "answered"),
    ):  # fmt: skip
        line = json.loads(closed.says(identity))
        assert (line.get("caller"), line["outcome"]) == (caller, outcome)
    assert not any(secret in closed.log for secret in SECRETS)


def refusals(service):
    scrape = Scrape(service)
    return [scrape.requests(door).get("unauthenticated", 0) for door in ("http", "grpc")]


def test_tokens_are_renewed_and_a_broken_file_changes_nothing(closed, service, file):
    def is_taken(token):
        return post(service, Authorization=f"Bearer {token}")[0] == 200

    former = file.read_text()
    try:
        file.write_text(f"{SECOND}\n")
        wait_for(lambda: is_taken(SECOND))
        assert not is_taken(FIRST)
        assert call(channel(service), ("authorization", f"Bearer {SECOND}")) is grpc.StatusCode.OK
        assert is_taken(OF_ENVIRONMENT)
        file.write_text("# nobody\n")
        closed.says("holds no token")
        assert is_taken(SECOND) and not is_taken(FIRST)
    finally:
        file.write_text(former)
    wait_for(lambda: is_taken(FIRST))


def test_check_prints_no_token(digits_model, tmp_path, file):
    (tmp_path / "config.yml").write_text(yaml.safe_dump(quick(digits_model, native={"tokens_file": str(file)})))
    result = subprocess.run(
        [sys.executable, "-m", "service", "check", "--config", str(tmp_path / "config.yml")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={**ENVIRONMENT, VARIABLE: OF_ENVIRONMENT},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["native"]["tokens_file"] == str(file)
    assert not any(secret in result.stdout + result.stderr for secret in SECRETS)


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment\n", "short\n", f"{FIRST}é\n", f"a b: {FIRST}\n", f"{'x' * 513}\n", f"{FIRST} {FIRST}"],
)
def test_what_holds_no_token_is_refused_without_being_told(tmp_path, text):
    file = tmp_path / "tokens"
    file.write_text(text, encoding="utf-8")
    for native, environment in ((Native(tokens_file=str(file)), {}), (Native(), {VARIABLE: text})):
        with pytest.raises(ConfigError, match=r"no token; accepted: .*16 to 512 letters") as refused:
            read_tokens(native, environment)
        assert FIRST not in str(refused.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"native\.tokens_file: .*absent: No such file or directory; accepted: "):
        read_tokens(Native(tokens_file=str(tmp_path / "absent")), {})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "tokens").write_text(f"alice: {FIRST}\r\n", encoding="utf-8-sig", newline="")
    tokens = read_tokens(Native(tokens_file=str(tmp_path / "tokens")), {})
    assert tokens.name_of([f"Bearer {FIRST}"]) == "alice"


def test_the_environment_may_hold_several_and_names_are_of_what_is_shown():
    tokens = read_tokens(Native(), {VARIABLE: f"a: {FIRST},b:{SECOND}\n{OF_ENVIRONMENT}"})
    shown = {token: tokens.name_of([f"Bearer {token}"]) for token in (FIRST, SECOND, OF_ENVIRONMENT)}
    assert shown == {FIRST: "a", SECOND: "b", OF_ENVIRONMENT: "token-3"}
    for authorizations in ([], [f"Bearer {WRONG}"], [f"Bearer {FIRST}"] * 2):
        with pytest.raises(UnauthenticatedError):
            tokens.name_of(authorizations)
    assert FIRST not in repr(tokens)


def test_nobody_is_asked_for_a_token_where_none_is_configured(caplog):
    assert read_tokens(Native(), {}) is None
    verify_doors(Native(host="0.0.0.0"), {})
    assert not caplog.records


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False)])
def test_tokens_that_travel_for_everybody_to_read_are_warned_of(caplog, host, warned):
    verify_doors(Native(host=host), {VARIABLE: FIRST})
    assert ["travel for everybody to read" in record.message for record in caplog.records] == [True] * warned
    assert FIRST not in caplog.text
