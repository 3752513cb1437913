"""The client's files of certificates and its token: what is sent, what is refused, and that no token is told."""

from __future__ import annotations

import asyncio
import shutil
import ssl

import pytest
from certificates import authority, signed
from client_calls import IMAGE, mocked
from client_command import run
from client_servers import gateway

from regnetx_client import AsyncClient, Client, ConnectionFailed
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient
from regnetx_client.security import TOKEN_VARIABLE, authorization

TOKEN = "a-token-0123456789"
KINDS = [(Client, "http://test"), (AsyncClient, "http://test"), (GrpcClient, "test:1"), (AsyncGrpcClient, "test:1")]

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    ours = authority(folder, "ours")
    return ours, signed(folder, "server", ours), signed(folder, "caller", ours, usage="clientAuth")


def sent(server) -> list[str | None]:
    return [headers.get("authorization") for _, headers, _ in server.requests]


@needs_openssl
def test_https_with_an_authority_and_a_certificate_of_one_s_own(pairs):
    ours, server_pair, caller = pairs
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.certificate))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(server_pair.certificate, server_pair.key)
    own = {"ca": ours.certificate, "cert": str(caller.certificate), "key": caller.key}

    async def ask(url):
        async with AsyncClient(url, **own) as client:
            return await client.classify(IMAGE)

    with gateway(tls=tls) as server:
        with Client(server.url, **own) as client:
            assert client.classify(IMAGE)
        assert asyncio.run(ask(server.url))
        with Client(server.url) as client, pytest.raises(ConnectionFailed, match=r"(?i)certificate"):
            client.classify(IMAGE)
        with Client(server.url, ca=ours.certificate) as client, pytest.raises(ConnectionFailed):
            client.classify(IMAGE)


def test_the_token_is_sent_and_that_of_the_environment_where_none_is_given(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    with gateway() as server:
        for options in ({"token": TOKEN}, {}, {"headers": {"Authorization": "Basic x"}}):
            with Client(server.url, **options) as client:
                client.classify(IMAGE)
        both = {"headers": {"Authorization": "Basic x"}, "token": TOKEN}
        with Client(server.url, **both) as client:
            client.classify(IMAGE)
    assert sent(server) == [f"Bearer {TOKEN}", "Bearer of-the-environment", "Basic x", f"Bearer {TOKEN}"]


@pytest.mark.parametrize(("kind", "target"), KINDS)
@pytest.mark.parametrize("token", ["", f"{TOKEN}\r\nx: y", f"{TOKEN} ", f"{TOKEN}é"])
def test_what_is_no_token_is_refused_without_being_told(kind, target, token, monkeypatch):
    for options in ({"token": token}, {}):
        if not options:
            monkeypatch.setenv(TOKEN_VARIABLE, token or " ")
        with pytest.raises(ValueError, match="the token") as refused:
            kind(target, **options)
        assert TOKEN not in str(refused.value)


def test_an_empty_variable_is_no_token(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert authorization(None, None) == {}


@needs_openssl
@pytest.mark.parametrize(("kind", "target"), KINDS)
def test_files_that_cannot_be_used_are_refused_at_once(kind, target, pairs, tmp_path):
    ours, server, caller = pairs
    with pytest.raises(FileNotFoundError, match="absent"):
        kind(target, ca=tmp_path / "absent")
    for options, words in (
        ({"key": caller.key}, "key is given and cert is not"),
        ({"ca": caller.key}, "holds no certificates"),
        ({"ca": ours.certificate, "cert": server.certificate, "key": caller.key}, "do not work together"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(target, **options)


@needs_openssl
def test_settings_that_exclude_each_other_are_refused(pairs):
    with pytest.raises(ValueError, match="transport has TLS settings"):
        Client("https://test", transport=mocked(200), ca=pairs[0].certificate)
    with pytest.raises(ValueError, match="credentials have TLS settings"):
        GrpcClient("test:1", credentials=object(), ca=pairs[0].certificate)


def test_the_command_names_a_file_that_it_cannot_use(tmp_path):
    image, empty = tmp_path / "a.png", tmp_path / "empty"
    image.write_bytes(b"a")
    empty.write_text("\n")
    for option, path, words in (
        ("--ca", tmp_path / "absent", "No such file or directory"),
        ("--token-file", tmp_path / "absent", "No such file or directory"),
        ("--token-file", empty, "holds no token"),
    ):
        result = run("predict", str(image), option, str(path))
        assert result.returncode == 2
        assert f"{path}" in result.stderr and words in result.stderr and result.stderr.count("\n") == 1
