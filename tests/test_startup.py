"""The first moments of a program: standard streams that are missing, signals before there is a service, its children."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml
from calling import answers, free_port
from client_command import COMMAND, ENVIRONMENT
from running import (
    ROOT,
    children_of,
    command_line,
    configuration,
    end,
    is_alive,
    quick,
    start,
    wait_for,
    wait_until_ready,
)

from service.ops.model import CHOICE_FILE

SAMPLE = ROOT / "serving_models/bundled/digits/samples/seven.png"
STOPS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def ending():
    """Processes that end with the test, whatever it has found."""
    with contextlib.ExitStack() as stack:

        def also(process):
            stack.callback(process.communicate)
            stack.callback(process.kill)  # first: the last is called first
            return process

        yield also


def without(*descriptors):
    """For ``preexec_fn``: a program that is started with these closed."""
    return lambda: [os.close(descriptor) for descriptor in descriptors]


def streams_of(pid):
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]


def test_a_service_that_is_started_without_standard_streams_has_them_all_the_same(tmp_path, digits_model):
    port, file = free_port(), tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(quick(digits_model, native={"access_log": True}) | {"http_port": port}))
    process = start(["serve", "--config", str(file)], preexec_fn=without(0, 1, 2))
    try:
        wait_for(lambda: answers(port, "/readyz") == 200, 60)
        processes = [process.pid, *children_of(process.pid)]
        assert len(processes) == 3
        assert [streams_of(pid) for pid in processes] == [[os.devnull] * 3] * 3
        process.terminate()
        assert process.wait(60) == 0
    finally:
        end(process)


@pytest.mark.parametrize("missing", [(0, 1), (2,)])
@pytest.mark.parametrize("room", ["service.startup", "regnetx_client.cli.streams"])
def test_only_the_missing_streams_are_opened_and_a_child_inherits_them(tmp_path, missing, room):
    child = "import os; os.write(1, b'more'); os.write(2, b'more'); os.read(0, 1)"
    program = (
        f"import subprocess, sys; from {room} import open_missing_streams as o; o(); f = open(sys.argv[1], 'w');"
        "print('printed', flush=True); print('told', file=sys.stderr); assert sys.stdin.read() == '';"
        "subprocess.run([sys.executable, '-c', sys.argv[2]], check=True); f.close()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file"), child],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": "client"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, preexec_fn=without(*missing),
    )  # fmt: skip
    assert result.returncode == 0
    assert result.stdout == ("" if 1 in missing else "printed\nmore")
    assert result.stderr == ("" if 2 in missing else "told\nmore")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "serving_models", "fetch", "http://{}/m.tar", "--sha256", "0" * 64, "--to", "{}"],
        [*COMMAND, "predict", str(SAMPLE), "--url", "http://{}"],
    ],
    ids=["serving_models", "regnetx"],
)
def test_the_other_commands_have_their_standard_streams_too(tmp_path, command):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        given = [part.format(address if "://" in part else tmp_path) for part in command]
        process = subprocess.Popen(given, cwd=ROOT, env=os.environ | ENVIRONMENT, preexec_fn=without(0, 1, 2))
        try:
            connection, _ = server.accept()
            with connection:
                assert streams_of(process.pid) == [os.devnull] * 3
        finally:
            process.kill()
            process.wait()


READ = {"0", "63"}  # the system call's number: of x86-64, and of most others


def begun(fifo, process, seconds=60):
    """A descriptor to write what the process reads from ``fifo``; once it has opened it, and waits."""
    found = []

    def look():
        with contextlib.suppress(OSError):
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return found

    wait_for(look, seconds)
    # A signal between its last look for one and a read that has no end would be seen when the read has ended.
    wait_for(lambda: Path(f"/proc/{process.pid}/syscall").read_text().split()[0] in READ, seconds)
    return found[0]


class Reading:
    """A command of the service that has begun to read its configuration, which nobody has written yet."""

    def __init__(self, ending, folder, command="serve", program=("-m", "service"), **options):
        os.mkfifo(folder / "config.yml")
        arguments = [sys.executable, *program, command, "--config", str(folder / "config.yml")]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        self.process = ending(subprocess.Popen(arguments, cwd=ROOT, **options))
        self._file = begun(folder / "config.yml", self.process)

    def go_on(self, config):
        os.write(self._file, yaml.safe_dump(config).encode())
        os.close(self._file)

    def result(self):
        """Its exit code, and what it wrote."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_it_imports_ends_it_with_0_and_without_a_word(ending, tmp_path, number):
    # From a file system that does not answer.
    (tmp_path / "pydantic.py").write_text(f"open({str(tmp_path / 'fifo')!r}).read()")
    os.mkfifo(tmp_path / "fifo")
    environment = {"PYTHONPATH": str(tmp_path)}
    process = ending(start(["serve", "--config", "/nowhere"], environment, stderr=subprocess.PIPE))
    waits = begun(tmp_path / "fifo", process)
    process.send_signal(number)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 0)
    os.close(waits)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_who_ends_while_engines_are_measured_takes_the_measuring_process_along(
    ending, tmp_path, digits_model, number, code
):
    model = tmp_path / "digits"
    shutil.copytree(digits_model.parent, model, ignore=shutil.ignore_patterns(CHOICE_FILE))
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(configuration(model, native={"engine": "auto"})))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = ending(start(["serve", "--config", str(file)], environment, stderr=subprocess.PIPE))
    wait_for(lambda: measuring(process), 60)
    [child] = measuring(process)
    process.send_signal(number)
    # Standard error ends with the last process that has it, and would hold a traceback.
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", code)
    wait_for(lambda: not is_alive(child))


def measuring(process):
    return [pid for pid in children_of(process.pid) if "service.engines.measure" in command_line(pid)]


@pytest.mark.parametrize("parent", ["ours", "another"])
def test_a_tied_program_runs_as_any_unless_its_parent_has_gone(tmp_path, parent):
    (tmp_path / "told.py").write_text("import sys; print(__name__, *sys.argv[1:])")
    pid = os.getpid() if parent == "ours" else os.getppid()
    command = [sys.executable, "-m", "service.tied", str(pid), "told", "a", "b"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    told = "__main__ a b\n" if parent == "ours" else ""
    assert (result.returncode, result.stdout, result.stderr) == (0, told, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_other_commands_end_as_programs_do(ending, tmp_path, number, code):
    reading = Reading(ending, tmp_path, "check")
    reading.process.send_signal(number)
    assert reading.result() == (code, "", "")


def test_a_reload_that_is_asked_for_early_is_done_and_a_signal_at_the_very_end_changes_nothing(
    ending, tmp_path, digits_model
):
    program = (
        "import atexit, os, runpy; [atexit.register(os.kill, os.getpid(), number) for number in (1, 2, 15)];"
        "runpy.run_module('service', run_name='__main__', alter_sys=True)"
    )
    log = tmp_path / "log"
    with log.open("w") as stream:
        reading = Reading(ending, tmp_path, program=("-c", program), stderr=stream)
    reading.process.send_signal(signal.SIGHUP)
    reading.go_on(quick(digits_model))
    wait_until_ready(reading.process)
    wait_for(lambda: "reload: the model is still digits version" in log.read_text(), 60)
    reading.process.terminate()
    assert reading.result()[0] == 0
    assert "Traceback" not in log.read_text()


def test_who_is_told_to_end_while_an_engine_loads_waits_for_nobody(ending, tmp_path, digits_model):
    port, file = free_port(), tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(quick(digits_model, native={"drain_delay_ms": 600_000}) | {"http_port": port}))
    process = ending(start(["serve", "--config", str(file)], stderr=subprocess.PIPE))
    wait_for(lambda: loading(process), 60)
    os.kill(loading(process)[0], signal.SIGSTOP)
    wait_for(lambda: answers(port) == 200, 60)  # the frontend is there, and cannot answer what it is asked
    children = children_of(process.pid)
    process.terminate()
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 0)
    assert len(children) == 2 and not any(is_alive(pid) for pid in children)


def loading(process):
    return [pid for pid in children_of(process.pid) if "service.native.engine_process" in command_line(pid)]


@pytest.mark.parametrize(("hang_up", "code"), [(signal.SIG_DFL, 0), (signal.SIG_IGN, 2)], ids=["ends", "nohup"])
def test_it_ends_with_its_terminal_also_while_it_starts_but_not_under_nohup(ending, tmp_path, hang_up, code):
    ours, theirs = pty.openpty()

    def own_terminal():
        signal.signal(signal.SIGHUP, hang_up)
        fcntl.ioctl(theirs, termios.TIOCSCTTY)

    reading = Reading(ending, tmp_path, start_new_session=True, preexec_fn=own_terminal)
    os.close(theirs)
    os.close(ours)
    if code:
        reading.go_on({"nonsense": True})
    result, out, err = reading.result()
    assert (result, out) == (code, "")
    assert ("nonsense" in err) is bool(code)
