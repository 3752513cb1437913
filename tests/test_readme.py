"""Every command of the README, run as it stands there, in a copy of the repository."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, Service, wait_until_ready

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh"]
MAKE, WITHOUT_MAKE, CURL, FROM_A_SHELL, EXPORT = SHELL

# Of the starts one measures the engines, as config.yml says.
NAMED = {"REGNETX__NATIVE__ENGINE": "onnxruntime"}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


def test_the_readme_has_the_blocks_that_are_run_here():
    assert [language for language, _ in BLOCKS] == ["sh", "sh", "sh", "json", "python", "sh", "sh"]
    assert MAKE.split()[:2] == ["make", "serve"]


def test_the_test_command_is_what_ci_runs():
    assert "\nmake test " in MAKE
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_a_link_leads_somewhere(link):
    assert (ROOT / link).exists()


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """The repository as a clone has it, with the environment that these tests run in."""
    if not (ROOT / ".venv/native").exists() or Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("these tests need the environment that make test sets up")
    with copied() as folder:
        (folder / ".venv").symlink_to(ROOT / ".venv")
        yield folder


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A folder with what git keeps, or would keep if it were committed now."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="regnetx-readme-") as folder:
        for name in filter(None, names.split("\0")):
            if (ROOT / name).exists():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


def _python() -> tuple[int, int]:
    """The version that the first line of those without make takes."""
    program = "import sys; print(*sys.version_info[:2])"
    major, minor = subprocess.run(["python3", "-c", program], capture_output=True, text=True, check=True).stdout.split()
    return int(major), int(minor)


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def environment(http: int, rpc: int) -> dict[str, str]:
    """Other ports than those of config.yml, which may be taken; no network for official models; nothing of pytest's."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST", "VIRTUAL_ENV"))},
        "REGNETX__HTTP_PORT": str(http),
        "REGNETX__RPC_PORT": str(rpc),
        "REGNETX__DAG__PROMETHEUS_PORT": "0",
        "REGNETX_SERVING_MODELS_URL": f"http://127.0.0.1:{rpc}/nothing",
    }


@contextlib.contextmanager
def typed(command: str, folder: Path, **more: str) -> Iterator[tuple[Service, dict[str, str]]]:
    """A command that serves, typed into a shell; stopped with Ctrl-C, as a person would."""
    settings = environment(*free_ports()) | more
    process = subprocess.Popen(
        ["bash", "-ec", command], cwd=folder, env=settings, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield wait_until_ready(process), settings
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(command: str, folder: Path, settings: dict[str, str]) -> str:
    result = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=settings, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def served(copy: Path) -> Iterator[tuple[Service, dict[str, str]]]:
    command = MAKE.splitlines()[0]
    with typed(command, copy) as started:
        yield started


def test_make_serve_says_what_it_serves_and_where(served):
    service, settings = served
    assert service.lines[-2].startswith("ready: digits (RegNetX_200MF, 10 classes)")
    assert service.http == f"127.0.0.1:{settings['REGNETX__HTTP_PORT']}"
    assert service.rpc == f"127.0.0.1:{settings['REGNETX__RPC_PORT']}"


@needs_curl
def test_the_curl_command_gives_the_answer_that_stands_below_it(served, copy):
    service, settings = served
    answer = json.loads(run(CURL.replace("127.0.0.1:18080", service.http), copy, settings))
    shown = json.loads(next(text for language, text in BLOCKS if language == "json"))
    assert answer | {"value": answer["value"][:1]} == shown | {"value": shown["value"][:1]}
    [prob], [shown_prob] = json.loads(answer["value"][1]), json.loads(shown["value"][1])
    assert prob == pytest.approx(shown_prob, abs=1e-3)


def test_the_lines_of_the_client_run(served, copy):
    service, settings = served
    lines = next(text for language, text in BLOCKS if language == "python").replace("127.0.0.1:18080", service.http)
    program = f"{lines}\nprint(best.label, len(others))"
    result = subprocess.run([sys.executable, "-c", program], cwd=copy, env=settings, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("seven 2\n", "")


def test_the_commands_for_a_shell_run(served, copy):
    service, settings = served
    with_server, without_server = FROM_A_SHELL.strip().splitlines()
    answers = run(f"{with_server} --url {service.url}", copy, settings)
    for name in ("zero", "five", "nine"):
        assert re.search(rf"{name}\.png\b.*\b{name}\b", answers)
    assert "seven.png  seven 0.92" in run(without_server, copy, settings)


def test_an_exported_model_is_served_by_its_name(served, copy):
    _, settings = served
    export, serve = EXPORT.strip().splitlines()
    run(export, copy, settings)
    with typed(serve, copy, **NAMED) as (service, _):
        assert service.lines[-2].startswith("ready: mine (RegNetX_200MF, 10 classes)")


def test_the_list_command_names_the_twelve(copy):
    [command] = re.findall(r"`(\.venv/bin/python -m serving_models list)`", README)
    listing = run(command, copy, dict(os.environ))
    assert len(set(re.findall(r"RegNetX_\w+", listing))) == 12


@needs_curl
def test_the_lines_for_a_person_without_make_set_up_and_serve(monkeypatch):
    """With what make has installed already in sight, pip finds every locked version there and downloads none.

    That they install from nothing make itself shows, which has the same line for them, and so do the images.
    """
    assert "pip install --require-hashes -r requirements/native.txt" in " ".join(WITHOUT_MAKE.split())
    if (ROOT / ".venv/native").exists() and _python() == sys.version_info[:2]:
        monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    with copied() as folder, typed(WITHOUT_MAKE, folder, **NAMED) as (service, settings):
        answer = json.loads(run(CURL.replace("127.0.0.1:18080", service.http), folder, settings))
        assert answer["value"][0] == "['seven']"
