"""Requests that tests hold in their hands: sent, in flight while the engine stands still, answered."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import threading

from serving_models.bundled.digits.held_out import held_out

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
TEXT = base64.b64encode(held_out().images[0]).decode()
BODY = json.dumps({"key": ["image"], "value": [TEXT]})


def connect(address):
    """A socket to ``host:port``."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def rest_of(caller):
    """All that comes until the service closes the connection."""
    return b"".join(iter(lambda: caller.recv(65536), b""))


class Call(threading.Thread):
    """One HTTP request in a thread of its own; ``sent`` when the server's kernel has all of it."""

    def __init__(self, service, body=BODY, headers=None):
        super().__init__(daemon=True)
        self.service, self.body, self.headers = service, body, headers or {}
        self.sent = threading.Event()
        self.status, self.answer, self.answer_headers = None, None, None
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(self.service.http, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", f"/{self.service.name}/prediction", self.body, self.headers)
            self.sent.set()
            response = connection.getresponse()
            self.status, self.answer_headers, self.answer = (
                response.status,
                response.headers,
                json.loads(response.read()),
            )

    def result(self):
        self.join(60)
        assert not self.is_alive(), "no answer came"
        return self.status, self.answer


def get(service, path):
    connection = http.client.HTTPConnection(service.http, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status


def infer(service):
    status, answer = Call(service).result()
    assert (status, answer["err_no"]) == (200, 0), answer
    return answer


@contextlib.contextmanager
def stopped(*pids):
    """Processes that stand still, so that what they owe stays owed."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def in_flight(service, count=1, **options):
    """Calls that a frontend has read; the engine must be standing still."""
    calls = [Call(service, **options) for _ in range(count)]
    for call in calls:
        assert call.sent.wait(30)
    for _ in range(3):  # the frontend reads its connections in turn, so a later answer means an earlier request is in
        get(service, "/healthz")
    return calls


def all_processes(service):
    return [service.process.pid, *(pid for pids in service.children().values() for pid in pids)]


def ports_are_free(service):
    for address in (service.http, service.rpc):
        host, port = address.split(":")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
                probe.listen()
            except OSError:
                return False
    return True


def is_refused(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def free_port():
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(port, path="/healthz"):
    """The status that a path has at a port; None while nobody listens there."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
