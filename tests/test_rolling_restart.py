"""Two instances behind nginx, restarted one after the other while requests come: none is lost, none is wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from base64 import b64encode

import proxy
import pytest
from running import quick, serving
from stock import free_ports

from serving_models.bundled.digits.held_out import held_out

CALLERS = 6


def requests():
    """(body, label) of some digits."""
    digits = held_out()
    return [json.dumps({"key": ["a"], "value": [b64encode(image).decode()]}) for image in digits.images[:CALLERS]]


class Caller(threading.Thread):
    """Sends its image again as soon as it is answered, over connections that nginx may end."""

    def __init__(self, address, body):
        super().__init__(daemon=True)
        self.address, self.body = address, body
        self.enough = threading.Event()
        self.answers = []  # (status, labels)
        self.start()

    def run(self):
        with contextlib.closing(http.client.HTTPConnection(self.address, timeout=60)) as connection:
            while not self.enough.is_set():
                connection.request("POST", "/regnet/prediction", self.body)
                response = connection.getresponse()
                text = response.read()
                self.answers.append((response.status, json.loads(text)["value"] if response.status == 200 else text))


@pytest.mark.skipif(proxy.binary() is None, reason="no nginx here: sh requirements/nginx.sh")
def test_a_rolling_restart_loses_no_request(digits_model, tmp_path):
    ports = free_ports(2)
    folders = [tmp_path / f"replica-{port}" for port in ports]
    with contextlib.ExitStack() as stack:
        instances = []
        for folder, port in zip(folders, ports, strict=True):
            folder.mkdir()
            instances.append(stack.enter_context(serving(folder, config(digits_model, port))))
        address = stack.enter_context(proxy.nginx(tmp_path, [f"127.0.0.1:{port}" for port in ports]))
        callers = [Caller(address, body) for body in requests()]
        try:
            for folder, port, instance in zip(folders, ports, instances, strict=True):
                before = [len(caller.answers) for caller in callers]
                assert instance.stop() == 0
                stack.enter_context(serving(folder, config(digits_model, port)))
                assert all(len(caller.answers) > count for caller, count in zip(callers, before, strict=True))
        finally:
            for caller in callers:
                caller.enough.set()
        for caller in callers:
            caller.join(60)
            assert not caller.is_alive()
    for caller in callers:
        assert {status for status, _ in caller.answers} == {200}, [one for one in caller.answers if one[0] != 200]
        assert len({tuple(value) for _, value in caller.answers}) == 1, "somebody else's answer"


def config(model, port):
    """Without a delay, in which a proxy could notice; it is the harder case."""
    return {**quick(model, native={"drain_delay_ms": 0}), "http_port": port}
