"""Health, engines that die, and the end of a container."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

from command import CommandError
from containers import BODY, running, serving, wait_for

SIGNAL = """
import os, pathlib, signal, sys
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    if sys.argv[1].encode() in (entry / "cmdline").read_bytes().split(b"\\0") and int(entry.name) != os.getpid():
        os.kill(int(entry.name), getattr(signal, sys.argv[2]))
        print(entry.name)
"""
STATES = """
import pathlib
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    print((entry / "stat").read_text().rpartition(")")[2].split()[0])
"""
# Fills memory until the engine, which it makes the first to go, has lost its own; a dead process has no command line.
# It waits between two pieces, so that it does not ask for what the kernel is only about to free.
HOG = """
import pathlib, time
def command(entry):
    return (entry / "cmdline").read_bytes().split(b"\\0")
engine = next(e for e in pathlib.Path("/proc").glob("[0-9]*") if b"service.native.engine_process" in command(e))
(engine / "oom_score_adj").write_text("1000")
held = []
while engine.exists() and command(engine) != [b""] and len(held) < 300:
    held.append(b"x" * (8 << 20))
    time.sleep(0.02)
print("the engine is gone" if len(held) < 300 else "the engine is still there")
"""
MODEL = "REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG"
FRONTEND, ENGINE = "service.native.frontend", "service.native.engine_process"


def test_a_frontend_that_stands_still_is_unhealthy_and_healthy_again_when_it_goes_on(docker, cpu):
    with serving(docker, cpu, "--health-timeout=3s") as container:
        assert container.python(SIGNAL, FRONTEND, "SIGSTOP").split()
        container.wait_for_health("unhealthy")
        container.python(SIGNAL, FRONTEND, "SIGCONT")
        container.wait_for_health("healthy")


def test_a_service_whose_engines_cannot_come_back_is_unhealthy_until_they_can(docker, cpu, models):
    options = (f"--volume={models}:/models:ro", f"--env={MODEL}=/models/mine")
    with serving(docker, cpu, *options) as container:
        (models / "mine").rename(models / "away")
        container.python(SIGNAL, ENGINE, "SIGKILL")
        container.wait_for_health("unhealthy")
        (models / "away").rename(models / "mine")
        container.wait_for_health("healthy")
        assert container.label() == "['seven']"


def test_an_engine_killed_for_want_of_memory_is_started_again_and_no_zombie_is_left(docker, cpu):
    with serving(docker, cpu, "--memory=2g", "--memory-swap=2g", "--env=REGNETX__OP__CONCURRENCY=1") as container:
        for _ in range(3):
            # The kernel may take the hog as well, before it has seen that the engine is gone.
            with contextlib.suppress(CommandError):
                assert container.python(HOG, seconds=120) == "the engine is gone\n"
            if "engine 0 was ended by SIGKILL" in container.logs():
                break
        wait_for(lambda: "engine 0 was ended by SIGKILL" in container.logs())
        assert container.label() == "['seven']"
        wait_for(lambda: "Z" not in container.python(STATES).split())


def test_sigterm_lets_what_is_in_flight_finish_and_ends_with_0_within_the_bound(docker, cpu):
    with serving(docker, cpu) as container:
        container.python(SIGNAL, ENGINE, "SIGSTOP")
        calls = [Call(container) for _ in range(4)]
        for call in calls:
            assert call.sent.wait(30)
        # The frontend reads its connections in turn, so a later answer means that the earlier requests are in.
        for _ in range(5):
            assert container.ask("/healthz", body=None)[0] == 200
        docker.docker("kill", "--signal", "TERM", container.name)
        container.python(SIGNAL, ENGINE, "SIGCONT")
        assert [call.result() for call in calls] == [(200, "['seven']")] * 4
        assert container.wait() == 0


def test_a_sigterm_in_its_first_moments_is_not_lost(docker, cpu):
    with running(docker, cpu) as container:
        docker.docker("kill", "--signal", "TERM", container.name)
        assert container.wait() in (0, 143)  # 143: before Python was there to say 0


def test_the_exit_code_of_the_service_is_that_of_the_container(docker, cpu):
    with running(docker, cpu, command=("serve", "--config", "/nowhere.yml")) as container:
        assert container.wait() == 2


class Call(threading.Thread):
    """One request in a thread of its own; ``sent`` when the kernel has all of it."""

    def __init__(self, container):
        super().__init__(daemon=True)
        self.address = container.address(18080)
        self.sent = threading.Event()
        self.answer = None
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("POST", "/regnet/prediction", BODY)
        self.sent.set()
        response = connection.getresponse()
        self.answer = response.status, json.loads(response.read())["value"][0]
        connection.close()

    def result(self):
        self.join(60)
        return self.answer
