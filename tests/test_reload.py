"""A new version of the model in the place of the old one while requests go on: real files, signals and processes."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import grpc
import pytest
import yaml
from calling import BODY, METHOD, TEXT, Call, all_processes, in_flight, stopped
from running import ROOT, is_alive, quick, serving, wait_for, wait_until_ready
from scraping import ADMIN, Scrape

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.errors import StartupError
from service.native.reload import Reloader
from service.ops.model import load_model
from service.ops.version import version_of
from serving_models.bundled.digits.held_out import held_out

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RIGHT = WORDS[held_out().labels[0]]
PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()


class Shelf:
    """Versions of a model in folders, and a symbolic link to the one that is to be served."""

    def __init__(self, folder, model):
        self.folder, self.link = folder, folder / "current"
        self.add("old", model)
        self.link.symlink_to(folder / "old")

    def add(self, name, model, labels=None):
        """A copy of a serving model; its labels have ``labels`` in front where given."""
        shutil.copytree(model.parent, self.folder / name)
        if labels:
            file = self.folder / name / "labels.txt"
            file.write_text("".join(f"{labels}{line}\n" for line in file.read_text().splitlines()))
        return self.folder / name

    def point_at(self, name):
        """At once, as a rollout does it."""
        beside = self.folder / "beside"
        beside.symlink_to(self.folder / name)
        beside.rename(self.link)

    def version(self, name):
        return version_of(load_model(self.folder / name))


@pytest.fixture
def shelf(tmp_path, digits_model):
    return Shelf(tmp_path, digits_model)


@contextlib.contextmanager
def served(shelf, **changes):
    """The link's model in a service that tells versions, and what the service writes on standard error."""
    native = {"model_version": True, **changes.pop("native", {})}
    values = quick(shelf.link, dag=ADMIN, native=native, **changes)
    with serving(shelf.folder, values, log=shelf.folder / "log") as service:
        yield service


def reload(service):
    service.process.send_signal(signal.SIGHUP)


def reloads(service, outcome="succeeded"):
    return Scrape(service)("regnetx_model_reloads_total", outcome=outcome)


def served_version(service):
    [version] = {dict(labels)["version"] for name, labels in Scrape(service).samples if name == "regnetx_model_info"}
    return version


def slot_memories(pid):
    """Descriptors of slot memory that a process has."""
    links = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return sum("regnetx-slots" in link for link in links)


def label_of(answer):
    assert answer["err_no"] == 0, answer
    return ast.literal_eval(answer["value"][0])[0]


class Load:
    """Callers that ask for the same digit over one connection each, until they are told to stop."""

    def __init__(self, service, callers):
        self._service, self._over = service, threading.Event()
        self.seen, self.failed = [], []  # (door, label, version), in the order of each caller
        ways = [self._over_http if number % 2 else self._over_grpc for number in range(callers)]
        self._threads = [threading.Thread(target=self._ask, args=(way,), daemon=True) for way in ways]
        for thread in self._threads:
            thread.start()

    def _ask(self, way):
        mine = []
        self.seen.append(mine)
        try:
            way(mine)
        except Exception as error:
            self.failed.append(error)

    def _over_http(self, mine):
        connection = http.client.HTTPConnection(self._service.http, timeout=60)
        with contextlib.closing(connection):
            while not self._over.is_set():
                connection.request("POST", "/regnet/prediction", BODY)
                socket = connection.sock
                response = connection.getresponse()
                mine.append((label_of(json.loads(response.read())), response.headers["X-Model-Version"]))
                assert connection.sock is socket, "the connection was closed"

    def _over_grpc(self, mine):
        with grpc.insecure_channel(self._service.rpc) as channel:
            method = channel.unary_unary(METHOD, response_deserializer=wire.Response.FromString)
            while not self._over.is_set():
                response, call = method.with_call(PACKET, timeout=60)
                assert response.err_no == 0, response
                trailing = dict(call.trailing_metadata())
                mine.append((ast.literal_eval(response.value[0])[0], trailing["x-model-version"]))

    def end(self):
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request hangs"
        assert self.failed == []
        return self.seen


def test_versions_change_under_load_and_no_request_notices_but_by_its_label(shelf):
    shelf.add("new", shelf.link / "serving_server", labels="new ")
    old, new = shelf.version("old"), shelf.version("new")
    told = {(RIGHT, old), (f"new {RIGHT}", new)}
    with served(shelf, build_dag_each_worker=True, worker_num=2) as service:
        before = service.children()
        load = Load(service, 4)
        wait_for(lambda: all(load.seen) and len(load.seen) == 4)
        runs = Scrape(service)("regnetx_batch_size_count")
        for number, name in enumerate(("new", "old"), 1):
            shelf.point_at(name)
            reload(service)
            wait_for(lambda number=number: reloads(service) == number)
            assert served_version(service) == shelf.version(name)
            now = Scrape(service)("regnetx_batch_size_count")
            assert now >= runs  # what engines have counted that have gone stays counted
            runs = now
        after = [len(mine) for mine in load.seen]
        wait_for(lambda: all(len(mine) > count for mine, count in zip(load.seen, after, strict=True)) or load.failed)
        for mine in load.end():
            assert set(mine) == told
            assert sum(one != other for one, other in itertools.pairwise(mine)) == 2  # each change once, at once
        wait_for(lambda: len(service.children()["engine"]) == 1)
        assert service.children()["frontend"] == before["frontend"]
        assert service.children()["engine"] != before["engine"]
        assert Scrape(service)("regnetx_slots_in_use") == 0
        for pid in service.children()["frontend"]:  # slots that nobody uses any more are given back: file and mapping
            wait_for(lambda pid=pid: slot_memories(pid) == 2)
        assert f"reload: digits version {new} serves in the place of {old}" in service.log.read_text()
        assert service.stop() == 0


def test_a_request_that_has_begun_keeps_its_version_and_the_old_engine_until_it_is_answered(shelf):
    shelf.add("new", shelf.link / "serving_server", labels="new ")
    with served(shelf) as service:
        [engine] = service.children()["engine"]
        with stopped(engine):
            [begun] = in_flight(service)
            shelf.point_at("new")
            reload(service)
            wait_for(lambda: reloads(service) == 1)
            assert label_of(Call(service).result()[1]) == f"new {RIGHT}"
            assert is_alive(engine)
        assert label_of(begun.result()[1]) == RIGHT
        wait_for(lambda: not is_alive(engine))
        assert len(service.children()["engine"]) == 1
        assert service.stop() == 0


def shorter_labels(folder):
    file = folder / "labels.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def other_parameters(folder):
    (folder / "serving_server/inference.pdiparams").write_bytes(b"not these")


def what_no_engine_can_load(folder):
    """The file is that which model.yml names: only the engine finds out."""
    onnx, facts = folder / "serving_server/inference.onnx", folder / "model.yml"
    was = hashlib.sha256(onnx.read_bytes()).hexdigest()
    onnx.write_bytes(onnx.read_bytes()[:5000])
    facts.write_text(facts.read_text().replace(was, hashlib.sha256(onnx.read_bytes()).hexdigest()))


def no_files(folder):
    shutil.rmtree(folder)


def test_a_version_that_fails_its_check_leaves_everything_as_it_was(shelf):
    with served(shelf) as service:
        processes = all_processes(service)
        faults = {
            "labels, but output.classes": shorter_labels,
            "SHA-256 is": other_parameters,
            "inference.onnx: ": what_no_engine_can_load,
            "no such directory": no_files,
        }
        for number, (reason, break_it) in enumerate(faults.items(), 1):
            name = f"broken {number}"
            break_it(shelf.add(name, shelf.folder / "old/serving_server"))
            shelf.point_at(name)
            reload(service)
            wait_for(lambda number=number: reloads(service, "failed") == number)
            last = [line for line in service.log.read_text().splitlines() if "reload: refused" in line][-1]
            assert re.search(f"digits version {shelf.version('old')} goes on: .*({reason})", last), last
            assert label_of(Call(service).result()[1]) == RIGHT
        assert sorted(all_processes(service)) == sorted(processes)
        for pids in service.children().values():  # what is started again is of the version that serves, not of the link
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda pid=pid: not is_alive(pid))
                wait_for(lambda: Scrape(service)("regnetx_ready") == 1)
        assert label_of(Call(service).result()[1]) == RIGHT
        shelf.point_at("old")
        reload(service)
        wait_for(lambda: "nothing to do" in service.log.read_text())
        assert (reloads(service), reloads(service, "failed")) == (0, 4)


def test_whatever_is_started_after_a_reload_is_of_the_new_version(shelf):
    shelf.add("new", shelf.link / "serving_server", labels="new ")
    with served(shelf) as service:
        shelf.point_at("new")
        reload(service)
        wait_for(lambda: reloads(service) == 1 and len(service.children()["engine"]) == 1)
        for kind in ("engine", "frontend"):
            [pid] = service.children()[kind]
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not is_alive(pid))
            wait_for(lambda: Scrape(service)("regnetx_ready") == 1)
            assert label_of(Call(service).result()[1]) == f"new {RIGHT}"


def test_a_version_of_another_size_takes_over(shelf, digits_model, tmp_path):
    command = [sys.executable, "-m", "serving_models", "export"]
    weights = ROOT / "serving_models/bundled/digits/RegNetX_200MF_digits.pdparams"
    options = ["--name", "digits", "--image-size", "64", "--to", str(tmp_path / "larger")]
    subprocess.run([*command, str(weights), *options], cwd=ROOT, check=True, capture_output=True, timeout=300)
    shelf.add("new", tmp_path / "larger/digits/serving_server")
    with served(shelf) as service:
        shelf.point_at("new")
        reload(service)
        wait_for(lambda: reloads(service) == 1)
        status, answer = Call(service).result()
        assert (status, answer["err_no"]) == (200, 0)
        samples = Scrape(service).samples
        [about] = [dict(labels) for name, labels in samples if name == "regnetx_model_info"]
        assert (about["height"], about["version"]) == ("64", shelf.version("new"))


def test_files_that_change_are_noticed_without_a_signal_where_that_is_asked_for(shelf):
    with served(shelf, native={"reload_model_ms": 20}) as service:
        old = served_version(service)
        replaced = shelf.add("beside it", shelf.folder / "old/serving_server", labels="new ")
        (shelf.folder / "old").rename(shelf.folder / "was")  # the folder itself, not the link
        replaced.rename(shelf.folder / "old")
        wait_for(lambda: served_version(service) != old)
        assert label_of(Call(service).result()[1]) == f"new {RIGHT}"
        shorter_labels(shelf.folder / "old")
        wait_for(lambda: reloads(service, "failed") >= 1)
        assert reloads(service) == 1


def test_a_stop_during_a_reload_is_a_clean_stop(shelf):
    shelf.add("new", shelf.link / "serving_server", labels="new ")
    with served(shelf) as service:
        shelf.point_at("new")
        reload(service)
        wait_for(lambda: len(service.children()["engine"]) == 2)
        processes = all_processes(service)
        assert service.stop() == 0
        wait_for(lambda: not any(is_alive(pid) for pid in processes))


def test_the_end_of_its_terminal_is_a_stop_and_no_reload(shelf):
    values = quick(shelf.link)
    (shelf.folder / "config.yml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "service", "serve", "--config", str(shelf.folder / "config.yml")]
    ours, theirs = os.openpty()

    def take_terminal():
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        service = wait_until_ready(process)
        processes = all_processes(service)
        os.close(ours)
        assert process.wait(60) == 0
        wait_for(lambda: not any(is_alive(pid) for pid in processes))
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()


def test_a_stop_does_not_wait_for_files_that_cannot_be_read(shelf):
    """As on a mount that is dead. Whoever opens a FIFO waits until somebody writes into it, and then for what is written."""
    fifo = shelf.add("unreadable", shelf.link / "serving_server") / "labels.txt"
    fifo.unlink()
    os.mkfifo(fifo)
    with served(shelf) as service:
        processes = all_processes(service)
        shelf.point_at("unreadable")
        reload(service)
        writer = when_it_is_read(fifo)
        try:
            assert label_of(Call(service).result()[1]) == RIGHT
            assert service.stop() == 0
            assert not any(is_alive(pid) for pid in processes)
        finally:
            os.close(writer)


def when_it_is_read(fifo):
    """A descriptor for writing, once somebody has opened it for reading."""
    opened = []

    def is_read():
        with contextlib.suppress(OSError):  # ENXIO: nobody
            opened.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return opened

    wait_for(is_read)
    return opened[0]


async def test_files_that_are_not_read_in_time_refuse_the_reload_and_are_no_version_when_they_are(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    closed = asyncio.Event()
    reloader = object.__new__(Reloader)
    reloader._config = SimpleNamespace(native=SimpleNamespace(load_timeout_ms=10))
    reloader._read = lambda: (tmp_path / "fifo").read_bytes() and SimpleNamespace(close=closed.set)
    with pytest.raises(StartupError, match=r"not been read within the 0\.01 s of native\.load_timeout_ms"):
        await reloader._read_in_time()
    assert not closed.is_set()
    await asyncio.to_thread((tmp_path / "fifo").write_bytes, b"at last")
    await asyncio.wait_for(closed.wait(), 30)


async def test_a_frontend_that_stands_still_refuses_the_reload_in_time(monkeypatch):
    monkeypatch.setattr("service.native.reload.REPLY_SECONDS", 0.01)
    silent = SimpleNamespace(name="frontend 0", ready=asyncio.Event(), ask=lambda *_: asyncio.Event().wait())
    silent.ready.set()
    reloader = object.__new__(Reloader)
    with pytest.raises(StartupError, match=r"frontend 0 has not replied within 0\.01 s"):
        await reloader._prepare(silent, SimpleNamespace(order={}, descriptors=()))


def test_nothing_is_told_of_versions_where_nobody_asked(service):
    call = Call(service)
    call.result()
    assert call.answer_headers["X-Model-Version"] is None


@pytest.mark.parametrize("change", ["labels.txt", "model.yml"])
def test_a_version_is_another_as_soon_as_an_answer_could_be_another(shelf, change):
    was = shelf.version("old")
    file = shelf.folder / "old" / change
    text = file.read_text()
    file.write_text(text.replace("mean: [0.5", "mean: [0.4") if change == "model.yml" else "x" + text)
    assert shelf.version("old") != was
    assert re.fullmatch("[0-9a-f]{12}", was)
