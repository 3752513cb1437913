"""TLS and mutual TLS at both doors: who gets in, who does not, and that certificates are renewed without a lost call."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
import yaml
from calling import BODY
from certificates import Pair, authority, signed
from client_command import COMMAND, ENVIRONMENT
from guarded import SECONDS, call, caller_context, channel, connection, guarded, post
from running import ROOT, quick, wait_for
from scraping import ADMIN

from regnetx_client import ConnectionFailed
from regnetx_client.grpc import GrpcClient
from service.config import Native, load_config
from service.errors import ConfigError
from service.native.tls import read_identity

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")

MOST = 12  # connections
UNHEARD = (ConnectionError, ssl.SSLError, EOFError)


class Files:
    """Two authorities, what they signed, and a folder as Kubernetes mounts a secret: files behind a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours, self.others = authority(folder, "ours"), authority(folder, "others")
        self.servers = [signed(folder, f"server{number}", self.ours) for number in range(2)]
        self.caller = signed(folder, "caller", self.ours, usage="clientAuth")
        self.stranger = signed(folder, "stranger", self.others, usage="clientAuth")
        self._versions = 0
        self.mount(self.servers[0], self.ours)

    def mount(self, pair: Pair, ca: Pair, key: Path | None = None) -> None:
        self._versions += 1
        version = self.folder / f"..{self._versions}"
        version.mkdir()
        shutil.copy(pair.certificate, version / "tls.crt")
        shutil.copy(key or pair.key, version / "tls.key")
        shutil.copy(ca.certificate, version / "ca.crt")
        link = self.folder / "..next"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")

    def native(self) -> dict[str, str]:
        data = self.folder / "..data"
        return {
            "tls_certificate": str(data / "tls.crt"), "tls_key": str(data / "tls.key"),
            "tls_client_ca": str(data / "ca.crt"),
        }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mutual(digits_model, tmp_path_factory, files):
    native = {**files.native(), "max_connections": MOST, "read_timeout_ms": 3000}
    config = quick(digits_model, native=native, dag=ADMIN, worker_num=1)
    with guarded(tmp_path_factory.mktemp("mutual"), config) as running:
        yield running


@pytest.fixture
def service(mutual):
    return mutual.service


def serial(der: bytes | None, of: Pair) -> bool:
    return der == ssl.PEM_cert_to_DER_cert(of.certificate.read_text())


def test_the_first_lines_say_https_and_tls(service):
    ready = next(line for line in service.lines if line.startswith("ready:"))
    assert f"POST https://{service.http}/" in ready
    assert ready.endswith(f"gRPC {service.rpc} (TLS)")
    assert service.lines[-1].startswith("try: ") and "--cacert CA.pem --cert CLIENT.pem" in service.lines[-1]


def test_a_caller_with_a_certificate_is_answered_at_both_doors(service, files):
    assert post(service, caller_context(files.ours, files.caller))[0] == 200
    assert call(channel(service, files.ours, files.caller)) is grpc.StatusCode.OK


def test_a_caller_without_one_or_with_a_stranger_s_is_not(service, files):
    for own in (None, files.stranger):
        with pytest.raises(UNHEARD):
            post(service, caller_context(files.ours, own))
        assert call(channel(service, files.ours, own)) is grpc.StatusCode.UNAVAILABLE


def test_a_caller_who_trusts_another_authority_hangs_up(service, files):
    with pytest.raises(ssl.SSLCertVerificationError):
        post(service, caller_context(files.others, files.caller))
    assert call(channel(service, files.others, files.caller)) is grpc.StatusCode.UNAVAILABLE


def test_plain_callers_get_an_end(service):
    for address in (service.http, service.rpc):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
            plain.sendall(b"POST /regnet/prediction HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
            assert b"HTTP/1.1 200" not in to_the_end(plain)
    assert call(channel(service)) is grpc.StatusCode.UNAVAILABLE


def to_the_end(plain: socket.socket) -> bytes:
    """What comes until the other end hangs up, within the socket's time."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while piece := plain.recv(4096):
            heard += piece
    return heard


def test_callers_who_connect_and_say_nothing_get_an_end(service):
    with contextlib.ExitStack() as stack:
        silent = []
        for address in (service.http, service.rpc):
            host, port = address.split(":")
            silent.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS)))
        for one in silent:
            to_the_end(one)


def test_handshakes_are_bounded_in_number(service, files):
    host, port = service.http.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS))
        with pytest.raises(UNHEARD):
            post(service, caller_context(files.ours, files.caller))

    def is_answered():
        with contextlib.suppress(*UNHEARD):
            return post(service, caller_context(files.ours, files.caller))[0] == 200

    wait_for(is_answered)


def test_tls_1_1_is_refused(service, files):
    for address in (service.http, service.rpc):
        context = caller_context(files.ours, files.caller)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as plain, pytest.raises(UNHEARD):
            context.wrap_socket(plain, server_hostname=host)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_newer_versions_are_taken_and_http_1_1_is_what_is_spoken(service, files, version):
    context = caller_context(files.ours, files.caller)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, port = service.http.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        assert tls.selected_alpn_protocol() == "http/1.1"


def test_the_door_of_operators_stays_plain(service):
    host, port = service.admin.split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert to_the_end(plain).startswith(b"HTTP/1.1 200")


def test_nothing_listens_but_the_three_doors(service):
    pids = [service.process.pid, *(pid for pids in service.children().values() for pid in pids)]
    expected = {int(address.rpartition(":")[2]) for address in (service.http, service.rpc, service.admin)}
    assert set().union(*map(listening_ports, pids)) == expected


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which a process hears callers, of any address."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def test_the_client_and_its_command_call_with_a_certificate(service, files, tmp_path):
    from serving_models.bundled.digits.held_out import held_out

    image = tmp_path / "image.png"
    image.write_bytes(held_out().images[0])
    own = ["--ca", files.ours.certificate, "--cert", files.caller.certificate, "--key", files.caller.key]
    for door in (["--url", f"https://{service.http}"], ["--grpc", "--address", service.rpc]):
        command = [*COMMAND, "predict", str(image), *door, *map(str, own)]
        result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=60)
        assert result.returncode == 0 and result.stdout, result.stderr
    with GrpcClient(service.rpc, ca=files.ours.certificate) as client, pytest.raises(ConnectionFailed):
        client.classify(image)


class Load(threading.Thread):
    """Calls without a pause, over a kept connection and over a new one each time, until told to end."""

    def __init__(self, ask):
        super().__init__(daemon=True)
        self.ask, self.over, self.results = ask, threading.Event(), []
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                self.results.append(self.ask())
            except Exception as error:
                self.results.append(error)

    def end(self):
        self.over.set()
        self.join(60)
        assert not self.is_alive()
        return self.results


def test_a_renewal_loses_no_call_and_keeps_connections(mutual, service, files):
    context = caller_context(files.ours, files.caller)
    host, port = service.http.split(":")

    def shown():
        with (
            socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            return tls.getpeercert(binary_form=True)

    assert serial(shown(), files.servers[0])
    kept, kept_channel = connection(service, context), channel(service, files.ours, files.caller)

    def again():
        kept.request("POST", "/regnet/prediction", BODY)
        answer = kept.getresponse()
        answer.read()
        return answer.status

    before = again() == 200 and kept.sock
    loads = [
        Load(again),
        Load(lambda: post(service, context)[0]),
        Load(lambda: call(channel(service, files.ours, files.caller))),
    ]
    try:
        wait_for(lambda: all(load.results for load in loads))
        files.mount(files.servers[1], files.ours)
        wait_for(lambda: serial(shown(), files.servers[1]))
        seen = [len(load.results) for load in loads]
        wait_for(lambda: all(len(load.results) > count for load, count in zip(loads, seen, strict=True)))
    finally:
        results = [load.end() for load in loads]
    assert [set(found) for found in results] == [{200}, {200}, {grpc.StatusCode.OK}]
    assert kept.sock is before
    kept.close()
    kept_channel.close()
    assert grpc_serial(service, files) == files.servers[1].certificate.read_text()


def grpc_serial(service, files):
    """The certificate that the gRPC door shows."""
    host, port = service.rpc.split(":")
    context = caller_context(files.ours, files.caller)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    known = {pair.certificate.read_text() for pair in files.servers}
    [found] = [text for text in known if ssl.PEM_cert_to_DER_cert(text) == shown]
    return found


def test_half_a_renewal_changes_nothing_and_is_said(mutual, service, files):
    files.mount(files.servers[0], files.ours, key=files.servers[1].key)
    try:
        mutual.says("do not work together")
        assert post(service, caller_context(files.ours, files.caller))[0] == 200
        assert call(channel(service, files.ours, files.caller)) is grpc.StatusCode.OK
    finally:
        files.mount(files.servers[0], files.ours)


def test_another_authority_of_callers_lets_others_in_and_no_longer_the_former(service, files):
    old, new = caller_context(files.ours, files.caller), caller_context(files.ours, files.stranger)
    assert post(service, old)[0] == 200
    files.mount(files.servers[0], files.others)
    try:

        def is_in():
            with contextlib.suppress(*UNHEARD):
                return post(service, new)[0] == 200

        wait_for(is_in)
        with pytest.raises(UNHEARD):
            post(service, old)
        assert call(channel(service, files.ours, files.stranger)) is grpc.StatusCode.OK
        assert call(channel(service, files.ours, files.caller)) is grpc.StatusCode.UNAVAILABLE
    finally:
        files.mount(files.servers[0], files.ours)


def test_an_expired_certificate_is_refused_before_anything_starts(digits_model, files, tmp_path):
    expired = signed(tmp_path, "expired", files.ours, days=-1)
    native = {"tls_certificate": str(expired.certificate), "tls_key": str(expired.key)}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(quick(digits_model, native=native)))
    result = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--config", str(tmp_path / "config.yml")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"native.tls_certificate: {expired.certificate}: certificate has expired; accepted: " in result.stderr


def test_files_that_do_not_fit_are_named(files, tmp_path):
    server, caller, ca = files.servers[0], files.caller, files.ours.certificate
    junk, locked = tmp_path / "junk.pem", tmp_path / "locked.key"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    encrypt = ["openssl", "pkey", "-in", str(server.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(encrypt, check=True, timeout=SECONDS)
    for certificate, key, client_ca, words in (
        (tmp_path / "absent", server.key, None, "tls_certificate: .*absent: No such file or directory; accepted: "),
        (tmp_path, server.key, None, "tls_certificate: .*: Is a directory; accepted: "),
        (server.key, server.key, None, "tls_certificate: .* holds no certificate; accepted: "),
        (server.certificate, server.certificate, None, "tls_key: .* holds no private key; accepted: "),
        (server.certificate, caller.key, None, "do not work together \\(key values mismatch\\); accepted: "),
        (server.certificate, locked, None, "tls_key: .*locked with a password; accepted: "),
        (caller.certificate, caller.key, None, "tls_certificate: .* purpose; accepted: "),
        (junk, server.key, None, "\\(not pem\\); accepted: "),
        (server.certificate, server.key, junk, "tls_client_ca: .* cannot be used \\(not pem\\); accepted: "),
    ):
        native = Native(tls_certificate=str(certificate), tls_key=str(key), tls_client_ca=client_ca and str(client_ca))
        with pytest.raises(ConfigError, match=words):
            read_identity(native)
    whole = Native(tls_certificate=str(server.certificate), tls_key=str(server.key), tls_client_ca=str(ca))
    assert "PRIVATE" not in repr(read_identity(whole))
    assert read_identity(Native()) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_certificate": "a"}, "tls_certificate is given and tls_key is not"),
        ({"tls_key": "a"}, "tls_key is given and tls_certificate is not"),
        ({"tls_client_ca": "a"}, "tls_client_ca is given and tls_certificate is not"),
    ],
)
def test_half_of_tls_is_refused(tmp_path, given, words):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(quick(tmp_path, native=given)))
    with pytest.raises(ConfigError, match=words):
        load_config(file, {})
