"""Faults under load: every call is answered for its own image, refused with a reason, or lost with a counted connection.

One service with two engines and two frontends is the stage for all of them, in the order of the file: each test finds
it whole, does one real thing to it, and waits until it is whole again. The last one kills it.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import yaml
from calling import BODY, all_processes, connect, get, infer, is_refused, ports_are_free, stopped
from guarded import Guarded
from load import End, under_load
from onnx import numpy_helper
from running import ROOT, configuration, descriptors_of, end, is_alive, wait_for, wait_until_ready
from scraping import ADMIN, Scrape, probe

from service.ops.content import sha256_of

SHAPE = {"build_dag_each_worker": True, "worker_num": 2, "op": {"concurrency": 2}, "dag": ADMIN}
# The supervisor gives a stuck engine ten seconds more, a frontend twenty, and an hour to whoever loads, which nobody
# wants to wait for here. How long an engine may load stands in a file, for the machine may be busy when it really loads.
IMPATIENT = """
import os, sys
from pathlib import Path
from service.native import supervised, watchdog
watchdog.LOOK_SECONDS, watchdog.MOST_LOOKS = 0.2, {"engine": 3, "frontend": 5}
may_load = lambda child: float(Path(os.environ["LOAD_SECONDS"]).read_text()) if child.kind == "engine" else 0.0
supervised.Child.load_seconds = property(may_load, lambda child, seconds: None)
from service.__main__ import main
sys.exit(main())
"""
PATIENT_SECONDS = 120.0
HANGS = "import threading\nthreading.Event().wait()\n"  # a vendor's library that never comes back
LATE = "has not loaded the model within the 1 s of native.load_timeout_ms"


@dataclass
class Stage(Guarded):
    """The service, its log, and the folders that are its own."""

    model: Path  # the folder of model.yml
    temporary: Path  # TMPDIR of the service
    load_seconds: Path  # how long an engine that is started from now on may load
    modules: Path  # a folder in front of the installed packages
    wall_clock: Path | None  # seconds by which its wall clock is wrong, int64; None: no compiler here

    @property
    def engines(self) -> list[int]:
        return self.service.children()["engine"]

    @property
    def frontends(self) -> list[int]:
        return self.service.children()["frontend"]

    def is_whole(self) -> bool:
        if probe(self.service, "/readyz") != (200, "ready"):
            return False
        up = Scrape(self.service)
        engines = [up("regnetx_engine_up", engine=number) for number in "01"]
        return engines == [1, 1] and len(self.engines) == len(self.frontends) == 2

    def set_wall_clock(self, wrong_by: int) -> None:
        """Written in place: the service has the file in its memory."""
        with self.wall_clock.open("r+b", buffering=0) as file:
            file.write(struct.pack("q", wrong_by))

    @contextlib.contextmanager
    def loading_within(self, seconds: float) -> Iterator[None]:
        self.load_seconds.write_text(str(seconds))
        try:
            yield
        finally:
            self.load_seconds.write_text(str(PATIENT_SECONDS))

    def says_anew(self, text: str, since: int) -> str:
        """As ``says``, of what was written behind the first ``since`` characters."""
        wait_for(lambda: text in self.log[since:], 60)
        return next(line for line in self.log[since:].splitlines() if text in line)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The library that makes a wall clock wrong; the machine's own is nobody's to set."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = tmp_path_factory.mktemp("shim") / "wall_clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(ROOT / "tests/wall_clock.c")]
    return library if subprocess.run(command, capture_output=True, timeout=60).returncode == 0 else None


@pytest.fixture(scope="module")
def running(digits_model: Path, shim: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    model, temporary, modules = folder / "digits", folder / "tmp", folder / "modules"
    clock, load_seconds = folder / "wall_clock", folder / "load_seconds"
    shutil.copytree(digits_model.parent, model)
    temporary.mkdir()
    modules.mkdir()
    load_seconds.write_text(str(PATIENT_SECONDS))
    clock.write_bytes(struct.pack("q", 0))
    native = {"engine": "openvino", "slots": 1024}
    config = configuration(model / "serving_server", local={"thread_num": 2}, native=native, **SHAPE)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ, "TMPDIR": str(temporary), "LOAD_SECONDS": str(load_seconds), "PYTHONPATH": str(modules),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    if shim:
        environment |= {"LD_PRELOAD": str(shim), "WALL_CLOCK": str(clock)}
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "serve", "--config", str(folder / "config.yml")],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True,
        )  # fmt: skip
    try:
        service = wait_until_ready(process)
        yield Stage(service, log, model, temporary, load_seconds, modules, clock if shim else None)
    finally:
        end(process)


@pytest.fixture
def stage(running: Stage) -> Stage:
    wait_for(running.is_whole, 60)
    return running


def successor(before: list[int], now: list[int]) -> bool:
    return len(now) == len(before) and now != before


# --- engines ------------------------------------------------------------------------------------


def test_an_engine_that_is_killed_costs_no_call(stage):
    before = stage.engines
    with under_load(stage.service) as load:
        os.kill(before[0], signal.SIGKILL)
        load.goes_on()
        wait_for(lambda: successor(before, stage.engines))
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())


def test_an_engine_that_is_stopped_is_ended_and_what_it_owed_is_answered_by_the_other(stage):
    """A stopped process runs no alarm of its own: only the supervisor can end it."""
    before, written = stage.engines, len(stage.log)
    with under_load(stage.service) as load:
        os.kill(before[0], signal.SIGSTOP)
        load.goes_on()  # each caller, so also those whose image the stopped engine had
        assert get(stage.service, "/readyz") == 200
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    line = stage.says_anew(" and is ended", written)
    assert re.search(r"engine [01] has been (silent|in one run of the model) for \d+ s and is ended", line)
    assert "was ended by SIGKILL; starting it again" in stage.says_anew("SIGKILL", written)
    assert not is_alive(before[0])


def test_an_engine_that_hangs_while_it_loads_is_ended_and_tried_again_until_it_can(stage):
    """On a file that never gives anything, as on a mount that is dead."""
    file, away = stage.model / "serving_server/inference.onnx", stage.model.parent / "away.onnx"
    before, written = stage.engines, len(stage.log)
    with under_load(stage.service) as load:
        file.rename(away)
        os.mkfifo(file)
        with stage.loading_within(1):
            os.kill(before[0], signal.SIGKILL)
            line = stage.says_anew(LATE, written)
            assert re.search(rf"engine [01] was ended by SIGKILL \(engine [01] {LATE}\); starting it again in", line)
            load.goes_on()
            assert get(stage.service, "/readyz") == 200
        away.replace(file)
        wait_for(stage.is_whole, 60)
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    assert before[1] in stage.engines


def address_space_of(pid: int) -> int:
    """Bytes, as RLIMIT_AS counts them."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_an_engine_that_is_out_of_memory_says_so_and_is_tried_again_until_there_is_some(stage):
    """The kernel ends one that runs, as with kill -9; its successor then finds no memory to load."""
    supervisor, before, written = stage.service.process.pid, stage.engines, len(stage.log)
    limit = resource.prlimit(supervisor, resource.RLIMIT_AS)
    with under_load(stage.service) as load:
        scarce = address_space_of(supervisor) + (128 << 20)
        resource.prlimit(supervisor, resource.RLIMIT_AS, (scarce, limit[1]))  # its children inherit it
        try:
            os.kill(before[0], signal.SIGKILL)
            stage.says_anew("ended with exit code 1 (", written)
            load.goes_on()
        finally:
            resource.prlimit(supervisor, resource.RLIMIT_AS, limit)
        wait_for(stage.is_whole, 60)
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())


# --- frontends ----------------------------------------------------------------------------------


def sockets_of(*pids: int) -> set[str]:
    """The inodes of all sockets that processes hold."""
    found = set()
    for descriptor in (link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(OSError):
            found.update(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
    return found


def table(name: str) -> list[list[str]]:
    """A table of the kernel's sockets, proc(5)."""
    return [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]


def connections_of(pid: int) -> int:
    """Established TCP connections that a process holds."""
    held, established = sockets_of(pid), "01"
    return sum(row[3] == established and row[9] in held for name in ("tcp", "tcp6") for row in table(name))


def test_a_frontend_that_is_killed_loses_only_the_connections_it_had(stage):
    before = stage.frontends
    with under_load(stage.service, http_callers=4, grpc_callers=4) as load:
        held = connections_of(before[0])
        os.kill(before[0], signal.SIGKILL)
        load.goes_on()
        wait_for(lambda: successor(before, stage.frontends))
        load.goes_on()
    assert len(load.ended(End.LOST)) <= held <= 8
    assert load.reasons == set()


def test_a_frontend_that_is_stopped_is_ended_and_its_callers_do_not_hang(stage):
    """It keeps the connections that it has accepted, and whoever asked on one would wait for ever."""
    before, written = stage.frontends, len(stage.log)
    with under_load(stage.service, http_callers=4, grpc_callers=4) as load:
        held = {pid: connections_of(pid) for pid in before}
        standing, other = sorted(before, key=lambda pid: -held[pid])
        os.kill(standing, signal.SIGSTOP)
        line = stage.says_anew(" and is ended", written)
        assert re.search(r"frontend [01] has been silent for \d+ s and is ended", line)
        wait_for(lambda: successor(before, stage.frontends))
        load.goes_on()
    assert 0 < len(load.ended(End.LOST)) <= held[standing]
    assert load.reasons == set()
    assert not is_alive(standing) and other in stage.frontends
    wait_for(stage.is_whole, 60)
    with stopped(other):  # so it is the successor that answers, at the same port
        infer(stage.service)


def test_a_frontend_without_descriptors_serves_the_connections_it_has_and_others_later(stage):
    """Newcomers that find none are turned away or wait, and the loop that accepts them neither spins nor ends."""
    before = stage.frontends
    idle = {pid: descriptors_of(pid) for pid in before}
    with under_load(stage.service) as load, contextlib.ExitStack() as crowd:
        limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in before}
        for pid, (_, hard) in limits.items():
            # Room for all callers of a load at either frontend, and not for the crowd
            most = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 8
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
        callers = [crowd.enter_context(connect(stage.service.http)) for _ in range(40)]
        for _ in range(10):
            crowd.enter_context(connect(stage.service.rpc))
        wait_for(lambda: len(select.select(callers, [], [], 0)[0]) >= 20)  # closed: nothing was asked on them
        load.goes_on()
        assert probe(stage.service, "/healthz") == (200, "ok")
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    wait_for(lambda: all(descriptors_of(pid) <= count for pid, count in idle.items()))  # they know that all have left
    with under_load(stage.service) as load:  # on connections of its own, in the place of the crowd's
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    assert stage.frontends == before
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


def test_callers_that_vanish_or_never_read_harm_no_others(stage):
    head = f"POST {stage.service.prediction_url.removeprefix(stage.service.url)} HTTP/1.1\r\nHost: x\r\n"
    whole = f"{head}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
    reset = struct.pack("ii", 1, 0)
    with under_load(stage.service) as load, contextlib.ExitStack() as silent:
        for number in range(60):
            caller = connect(stage.service.http)
            if number % 3 == 0:  # half a request, then gone without a word
                caller.sendall(whole[: len(whole) // 2])
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                caller.close()
            elif number % 3 == 1:  # gone before the answer
                caller.sendall(whole)
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                caller.close()
            else:  # asks again and again and never reads
                silent.enter_context(caller)
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                caller.sendall(whole * 5)
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    wait_for(lambda: Scrape(stage.service)("regnetx_slots_in_use") == 0)


# --- the model's files --------------------------------------------------------------------------


def with_other_weights(folder: Path) -> None:
    """Another valid model in the place of this one: every class is answered in the place of its neighbour."""
    file = folder / "serving_server/inference.onnx"
    graph = onnx.load(str(file))
    for weights in graph.graph.initializer:
        if weights.name in ("out.weight", "out.bias"):
            values = numpy_helper.to_array(weights)
            axis = values.shape.index(10)
            weights.CopyFrom(numpy_helper.from_array(values.take([*range(1, 10), 0], axis), weights.name))
    facts = yaml.safe_load((folder / "model.yml").read_text())
    onnx.save(graph, str(file))
    facts["sha256"]["onnx"] = sha256_of(file)
    (folder / "model.yml").write_text(yaml.safe_dump(facts))


def test_files_that_are_replaced_or_deleted_change_no_answer_and_no_engine_takes_others(stage):
    """An engine that took the new weights would answer for the labels and sizes of the old model."""
    kept, file = stage.model.parent / "kept", stage.model / "serving_server/inference.onnx"
    shutil.copytree(stage.model, kept)
    before, written = stage.engines, len(stage.log)
    with under_load(stage.service) as load:
        with_other_weights(stage.model)
        load.goes_on()
        os.kill(before[0], signal.SIGKILL)
        line = stage.says_anew("is not the file that the service runs with", written)
        assert f"({file}: is not the file" in line and "put it back" in line
        load.goes_on()
        assert get(stage.service, "/readyz") == 200

        shutil.rmtree(stage.model)  # and even a frontend comes back, with the labels of the model that serves
        lost = stage.frontends[0]
        os.kill(lost, signal.SIGKILL)
        wait_for(lambda: len(stage.frontends) == 2 and lost not in stage.frontends)
        assert f"({file}: No such file or directory; " in stage.says_anew("No such file", written)
        load.goes_on()

        shutil.copytree(kept, stage.model)
        wait_for(stage.is_whole, 60)
        load.goes_on()
    assert len(load.ended(End.LOST)) <= 6
    assert load.reasons == set()
    shutil.rmtree(kept)


def test_a_reload_whose_engine_hangs_while_it_loads_is_rolled_back(stage):
    kept, library = stage.model.parent / "kept", stage.modules / "openvino.py"
    shutil.copytree(stage.model, kept)
    before, written = all_processes(stage.service), len(stage.log)
    with under_load(stage.service) as load:
        with_other_weights(stage.model)
        library.write_text(HANGS)
        with stage.loading_within(1):
            stage.service.process.send_signal(signal.SIGHUP)
            line = stage.says_anew("reload: ", written)
            assert re.search(rf"reload: refused, digits version \w+ goes on: engine [01] {LATE}$", line)
        load.goes_on()
        wait_for(lambda: sorted(all_processes(stage.service)) == sorted(before))
        library.unlink()
        shutil.rmtree(stage.model)
        kept.rename(stage.model)
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    assert Scrape(stage.service)("regnetx_model_reloads_total", outcome="failed") == 1


def test_garbage_over_the_files_in_place_changes_no_answer(stage):
    """Whoever copies over a file shortens it first: what a library had only mapped would be gone."""
    files = [file for file in (stage.model / "serving_server").iterdir() if file.is_file()]
    contents = {file: file.read_bytes() for file in files}
    with under_load(stage.service) as load:
        for file in files:
            file.write_bytes(b"garbage")
        load.goes_on()
        for file, content in contents.items():
            file.write_bytes(content)
    assert (load.ended(End.LOST), load.reasons) == ([], set())


# --- what a machine runs out of, and its clock --------------------------------------------------


def test_a_frontend_that_finds_no_shared_memory_says_so_and_is_tried_again(stage):
    supervisor, written = stage.service.process.pid, len(stage.log)
    limit = resource.prlimit(supervisor, resource.RLIMIT_FSIZE)
    [gone, stays] = stage.frontends
    with under_load(stage.service) as load:
        resource.prlimit(supervisor, resource.RLIMIT_FSIZE, (8 << 20, limit[1]))  # holds for shared memory, too
        try:
            os.kill(gone, signal.SIGKILL)
            line = stage.says_anew("no shared memory", written)
            assert re.search(r"no shared memory for 1024 slots, native\.slots \(\d+ bytes\): File too large", line)
            load.goes_on()
            assert "no shared memory" in probe(stage.service, "/readyz")[1]
        finally:
            resource.prlimit(supervisor, resource.RLIMIT_FSIZE, limit)
        wait_for(stage.is_whole, 60)
        load.goes_on()
    assert stays in stage.frontends
    assert load.reasons == set()


@pytest.mark.parametrize("days", [1, -1, 10_000])
def test_a_wall_clock_that_jumps_costs_no_call(stage, days):
    """Of the service alone, by a library that was loaded before it: nobody sets the clock of a machine for a test."""
    if stage.wall_clock is None:
        pytest.skip("no C compiler here")
    before = all_processes(stage.service)
    with under_load(stage.service) as load:
        stage.set_wall_clock(days * 86400)
        try:
            load.goes_on()
            infer(stage.service)
            assert get(stage.service, "/readyz") == 200
        finally:
            stage.set_wall_clock(0)
        load.goes_on()
    assert (load.ended(End.LOST), load.reasons) == ([], set())
    assert all_processes(stage.service) == before


# --- the supervisor, last -----------------------------------------------------------------------


def test_a_supervisor_that_is_killed_leaves_no_process_port_memory_or_file(stage):
    processes, files, shared = (
        all_processes(stage.service),
        sorted(stage.model.parent.rglob("*")),
        os.listdir("/dev/shm"),
    )
    sockets = sockets_of(*processes) - sockets_of(os.getpid())
    assert len(processes) == 5 and sockets
    with under_load(stage.service) as load:
        stage.service.process.kill()
        stage.service.process.wait(60)
        wait_for(lambda: not any(is_alive(pid) for pid in processes))
        # A process whose threads are still on their way out counts as dead but holds its sockets.
        wait_for(lambda: ports_are_free(stage.service))
        wait_for(lambda: not sockets & {row[6] for row in table("unix")})
    assert load.ended(End.LOST)
    assert load.reasons == set()
    assert is_refused(stage.service.http)
    assert sorted(stage.model.parent.rglob("*")) == files
    assert list(stage.temporary.iterdir()) == []
    assert os.listdir("/dev/shm") == shared
