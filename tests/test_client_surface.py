"""The client's names, arguments and imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from client_calls import IMAGE, mocked
from client_servers import gateway

import regnetx_client
from regnetx_client import (
    AsyncClient,
    BadImage,
    Client,
)
from service import __version__ as service_version


@pytest.mark.parametrize("url", ["localhost:18080", "ftp://host", "http://", "", "http://host:port", "http://h:99999"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="is not like http://localhost:18080"):
            kind(url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout 0 is not"),
        ({"timeout": float("nan")}, "timeout nan is not"),
        ({"connect_timeout": -1}, "connect_timeout -1 is not"),
        ({"retries": -1}, "retries -1 is not"),
        ({"retries": True}, "retries True is not"),
        ({"service": ""}, "service is empty"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict, message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=message):
            kind("http://test", **options)


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5, "5"])
def test_top_k_is_a_positive_whole_number(top_k: object) -> None:
    with Client("http://test", transport=mocked(200)) as client, pytest.raises(ValueError, match="top_k"):
        client.classify(IMAGE, top_k=top_k)


def test_a_bad_image_is_not_sent_and_is_told_by_its_place() -> None:
    with gateway() as server, Client(server.url) as client, pytest.raises(BadImage, match=r"^image 1: 0 bytes"):
        client.classify_batch([IMAGE, b""])
    assert server.requests == []


def test_a_service_name_is_quoted_and_a_prefix_of_the_url_is_kept() -> None:
    with gateway() as server, Client(server.url + "/models/", service="a b/c") as client:
        client.classify(IMAGE)
    assert server.requests[0][0] == "/models/a%20b%2Fc/prediction"


def test_headers_of_the_caller_are_sent() -> None:
    with gateway() as server, Client(server.url, headers={"authorization": "Bearer x"}) as client:
        client.classify(IMAGE)
    headers = server.requests[0][1]
    assert headers["authorization"] == "Bearer x"
    assert headers["user-agent"] == f"regnetx-client/{regnetx_client.__version__}"


def test_the_public_names_are_these() -> None:
    public = {
        name
        for name, value in vars(regnetx_client).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert regnetx_client.__all__ == sorted({*public, "__version__"})


def test_the_versions_of_client_and_service_agree() -> None:
    assert regnetx_client.__version__ == service_version


def test_importing_the_client_imports_nothing_heavy() -> None:
    code = "import sys, regnetx_client, regnetx_client.cli; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="client")
    loaded = set(run.stdout.split())
    assert "httpx" in loaded
    assert not loaded & {"grpc", "google", "numpy", "PIL", "paddle", "cv2", "service"}
