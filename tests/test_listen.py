"""Addresses of the configuration -> sockets."""

from __future__ import annotations

import socket

import pytest

from service.errors import ConfigError
from service.native.listen import bind, grpc_address, reserve


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".example", "\0", " ", "256.1.1.1", "a..b"])
def test_a_host_that_is_none_is_named(host):
    with pytest.raises(ConfigError, match=r"native\.host: .* is not an address of this machine"):
        bind(host, 0, "http_port")


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match=r"http_port: 0 on 192\.0\.2\.1: Cannot assign requested address"):
        bind("192.0.2.1", 0, "http_port")


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("127.1", "127.0.0.1"), ("0", "0.0.0.0"), ("::1", "[::1]")]
)
def test_grpc_is_told_the_address_in_numbers(host, address):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with reserve(host, 0, "rpc_port") as holder:
        assert grpc_address(holder) == f"{address}:{holder.getsockname()[1]}"


def test_a_reserved_port_can_be_opened_with_reuseport_and_only_so():
    with reserve("127.0.0.1", 0, "rpc_port") as holder:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(holder.getsockname())
        with pytest.raises(ConfigError, match=r"rpc_port: .* Address already in use"):
            reserve(*holder.getsockname(), "rpc_port")
