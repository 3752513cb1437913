"""A reader of the log that stands still holds up nothing: pipes, sockets and terminals that nobody reads."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import termios
import threading
import tty
import zlib

import pytest
import yaml
from calling import Call, answers, connect, free_port, infer
from running import ROOT, Service, quick, start, wait_for, wait_until_ready

from service.native import output
from service.native.output import Output

KINDS = ["pipe", "socket"]  # the first can be opened once more, for the second a thread has to wait
SAY = b"%d lost\n"
SECONDS = 30


class Reader:
    """One end to read from, which nobody does unless told to, and the descriptor that a process is given."""

    def __init__(self, kind):
        if kind == "pipe":
            self.here, self.there = os.pipe()
            fcntl.fcntl(self.there, fcntl.F_SETPIPE_SZ, 4096)
        elif kind == "socket":
            self.here, self.there = (end.detach() for end in socket.socketpair())
        else:
            self.here, self.there = os.openpty()
            tty.setraw(self.there)
            termios.tcflow(self.there, termios.TCOOFF)  # as Ctrl-S does
        self._text = b""

    def fill(self):
        """Write until there is no room; nothing of it is a line."""
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(self.there, False)
            while True:
                os.write(self.there, b" " * 4096)
        os.set_blocking(self.there, True)

    def until(self, text):
        """The lines up to the one that holds ``text``."""
        while text not in self._text or not self._text.endswith(b"\n"):
            assert select.select([self.here], [], [], SECONDS)[0], "it did not come"
            self._text += os.read(self.here, 1 << 16)
        lines, self._text = self._text.splitlines(), b""
        return lines

    def rest(self):
        """All until everybody who could write has ended."""
        self.leave_it()
        with contextlib.suppress(ConnectionResetError):
            while more := os.read(self.here, 1 << 16):
                self._text += more
        return self._text.strip().decode()

    def leave_it(self):
        """Only others can write now."""
        if self.there >= 0:
            os.close(self.there)
        self.there = -1


@pytest.fixture
def reader(request):
    made = Reader(getattr(request, "param", "pipe"))
    yield made
    made.leave_it()
    os.close(made.here)


# --- one output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [*KINDS, "terminal"], indirect=True)
def test_lines_come_in_their_order_and_those_that_found_no_room_by_number(reader):
    out = Output(reader.there)
    out.tell_loss = SAY.__mod__
    sent = 3 * output.MOST_LINES
    for number in range(sent):
        out.write(b"line %d\n" % number)
    if os.isatty(reader.there):
        termios.tcflow(reader.there, termios.TCOON)
    *lines, loss = reader.until(b" lost\n")
    assert lines == [b"line %d" % number for number in range(len(lines))]
    assert loss == SAY.strip() % (sent - len(lines)) and len(lines) >= output.MOST_LINES
    out.write(b"later\n")
    assert reader.until(b"later") == [b"later"]


def test_what_waits_is_bounded_by_its_bytes_too(reader):
    out = Output(reader.there)
    out.tell_loss = SAY.__mod__
    line = b"x" * (output.MOST_BYTES // 10) + b"\n"
    for _ in range(30):
        out.write(line)
    *lines, loss = reader.until(b" lost\n")
    assert lines == [line.strip()] * len(lines) and len(lines) in (9, 10, 11)
    assert loss == SAY.strip() % (30 - len(lines))


def test_those_who_share_the_open_file_find_it_as_it_was(reader):
    shared = os.dup(reader.there)
    Output(reader.there)
    assert (os.get_blocking(shared), os.get_blocking(reader.there)) == (True, False)
    os.close(shared)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_has_gone_is_no_error(kind):
    reader = Reader(kind)
    out = Output(reader.there)
    os.close(reader.here)
    for _ in range(3):
        out.write(b"line\n")
        out.drain(SECONDS)
    reader.leave_it()


def test_a_disk_that_was_full_is_told_what_it_missed(reader, monkeypatch):
    out = Output(reader.there)
    out.tell_loss = SAY.__mod__
    write, refusals = os.write, iter([True, True])

    def refuse(*arguments):
        if next(refusals, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    monkeypatch.setattr(os, "write", refuse)
    for text in (b"a\n", b"b\n", b"c\n"):
        out.write(text)
    assert reader.until(b"c\n") == [b"2 lost", b"c"]


def test_without_a_thread_the_last_lines_come_out_if_somebody_reads(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reader = Reader("socket")
    out = Output(reader.there)
    out.write(b"one\n")
    out.write(b"two\n")
    out.drain(SECONDS)
    assert reader.until(b"two") == [b"one", b"two"]
    reader.fill()
    out.write(b"three\n")
    out.drain(0)
    reader.leave_it()
    os.close(reader.here)


def test_many_threads_lose_nothing_that_has_room(reader):
    out = Output(reader.there)

    def write(name):
        for number in range(500):
            out.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.write(b"end\n")
    lines = reader.until(b"end\n")
    for name in range(4):
        assert [line for line in lines if line.startswith(b"%d " % name)] == [b"%d %d" % (name, n) for n in range(500)]


# --- a process ------------------------------------------------------------------------------------

CRASH = """
import logging, sys, warnings
from service.native.logs import set_up_logging
set_up_logging()
logging.info("one")
warnings.warn("two")
print("three", file=sys.stderr)
print("four", file=sys.stderr, end=" ")
raise RuntimeError("five")
"""


def run(text, reader):
    """Its exit code; it ends although nobody reads."""
    command = [sys.executable, "-W", "always", "-c", text]
    return subprocess.run(command, cwd=ROOT, stderr=reader.there, timeout=60, check=False).returncode


@pytest.mark.parametrize("reader", KINDS, indirect=True)
def test_the_last_words_of_a_crash_come_out_in_their_order(reader):
    assert run(CRASH, reader) == 1
    said = reader.rest()
    places = [said.index(word) for word in ("one", "two", "three", "four", "Traceback", "five")]
    assert places == sorted(places)


@pytest.mark.parametrize("reader", KINDS, indirect=True)
def test_a_crash_that_nobody_reads_is_an_end_all_the_same(reader):
    reader.fill()
    assert run(CRASH, reader) == 1


@pytest.mark.parametrize("reader", KINDS, indirect=True)
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
def test_a_service_that_cannot_start_ends_and_says_why(tmp_path, digits_model, reader, is_read):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = quick(digits_model, http_port=taken.getsockname()[1])
        (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
        if not is_read:
            reader.fill()
        process = start(["serve", "--config", str(tmp_path / "config.yml")], stderr=reader.there)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    said = reader.rest()
    if is_read:
        assert said.startswith("regnetx: http_port: ") and "\n" not in said


# --- a service ------------------------------------------------------------------------------------

SENT = 2500  # lines of such requests, longer than 500 bytes each, are more than may wait
OTHER = {"http_port": 0, "dag": {"enable_prometheus": True, "prometheus_port": 0}}


def picture(*, broken):
    """A request for the digits model; its PNG may hold data with a wrong checksum."""
    data = bytearray((ROOT / "serving_models/bundled/digits/samples/seven.png").read_bytes())
    if broken:
        kind = data.index(b"IDAT")
        end = kind + 4 + int.from_bytes(data[kind - 4 : kind])
        data[end - 1] ^= 255  # of zlib's own checksum; that of the chunk is right
        data[end : end + 4] = zlib.crc32(data[kind:end]).to_bytes(4)
    return json.dumps({"key": ["image"], "value": [base64.b64encode(data).decode()]})


def refusals(service, name, count):
    """As many requests, fifty at a time, each of which is a line in the log."""
    head = b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nX-Request-Id: %s-%d-%s\r\n\r\n{"
    requests = [head % (name, number, b"x" * 100) for number in range(count)]
    with connect(service.http) as caller:
        for first in range(0, count, 50):
            some = requests[first : first + 50]
            caller.sendall(b"".join(some))
            answer = b""
            while answer.count(b'"details":[]') < len(some):
                more = caller.recv(1 << 16)
                assert more, answer
                answer += more


def is_well(service):
    """An image is answered, and so are probes at both doors."""
    infer(service)
    ports = [int(door.split(":")[1]) for door in (service.http, service.admin)]
    return [answers(port, path) for port in ports for path in ("/healthz", "/readyz")] == [200] * 4


def told(lines, name):
    """The numbers of the requests of that name, and the numbers of lost lines."""
    found = [json.loads(line) for line in lines if line.startswith(b"{")]
    ids = [line["id"].split("-") for line in found if line.get("id", "").startswith(f"{name}-")]
    return [int(number) for _, number, _ in ids], [line["lost"] for line in found if "lost" in line]


@pytest.mark.parametrize("reader", KINDS, indirect=True)
@contextlib.contextmanager
def serving_into(reader, folder, config):
    """A service whose log the reader has, or has not; it must still end well."""
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    process = start(["serve", "--config", str(folder / "config.yml")], stderr=reader.there)
    try:
        service = wait_until_ready(process)
        yield service
        assert is_well(service)
        assert service.stop() == 0
    finally:
        process.kill()
        process.communicate()


def test_a_log_that_nobody_reads_holds_up_no_request_no_probe_and_no_stop(tmp_path, digits_model, reader):
    config = quick(digits_model, native={"access_log": True, "log_format": "json", "drain_timeout_ms": 1000}, **OTHER)
    with serving_into(reader, tmp_path, config) as service:
        refusals(service, b"first", SENT)
        assert is_well(service)
        numbers, [lost] = told(reader.until(b'"lost"'), "first")
        assert numbers == list(range(len(numbers)))
        assert len(numbers) + lost == SENT + 1  # and the image
        reader.fill()
        refusals(service, b"second", 50)


def test_lines_of_a_library_hold_up_nothing_either(tmp_path, digits_model, reader):
    with serving_into(reader, tmp_path, quick(digits_model, **OTHER)) as service:
        infer(service)
        broken = Call(service, picture(broken=True)).result()
        assert b"libpng" in reader.until(b"libpng")[-1]  # or this test tests nothing
        reader.fill()
        assert [Call(service, picture(broken=True)).result() for _ in range(8)] == [broken] * 8


def test_output_that_is_full_from_the_first_is_waited_for_by_nobody(tmp_path, digits_model, reader):
    config = quick(digits_model, http_port=free_port())
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    reader.fill()
    command = [sys.executable, "-m", "service", "serve", "--config", str(tmp_path / "config.yml")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=reader.there, stderr=reader.there)
    try:
        wait_for(lambda: answers(config["http_port"], "/readyz") == 200, 60)
        service = Service(process, f"127.0.0.1:{config['http_port']}", "", "regnet")
        infer(service)
        assert service.stop() == 0
    finally:
        process.kill()
        process.wait()
