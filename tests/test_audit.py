"""``make audit``, asked by the real pip-audit of a server that plays the OSV database."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import ROOT

from requirements.audit import IGNORED, AuditError, main, read_ignored
from requirements.locks import Pin, read_locks

HASH = f"--hash=sha256:{'0' * 64}"
TOMORROW, YESTERDAY = (date.today() + timedelta(days=days) for days in (1, -1))


def advisory(name: str, number: str, *aliases: str, fixed: str = "9") -> dict[str, Any]:
    """One of OSV's answers, with the fields that pip-audit reads."""
    events = [{"introduced": "0"}, {"fixed": fixed}]
    affected = {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": number, "aliases": list(aliases), "details": "...", "affected": [affected]}


@contextlib.contextmanager
def database(known: dict[tuple[str, str], list[dict[str, Any]]], status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """An OSV server that knows these advisories of (name, version); its URL, and what it has been asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((question["package"]["name"], question["version"]))
            found = known.get(asked[-1])
            answer = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def silence() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/query"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A URL at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Locks of a served and of a measured environment, the client's ranges, and an empty list of what is accepted."""
    write(tmp_path / "requirements/native.in", "served\nHTTPX[http2]>=0.25\n")
    write(
        tmp_path / "requirements/native.txt",
        f"served==1.0 ; sys_platform == 'win32' \\\n  {HASH}\nhttpx==0.28 {HASH}\n",
    )
    write(tmp_path / "requirements/stock.txt", f"served==0.5 {HASH}\nold==2.0.0 {HASH}\n")
    write(tmp_path / "benchmarks/peers/other/requirements.txt", f"measured==3 {HASH}\n")
    write(tmp_path / "client/pyproject.toml", '[project]\ndependencies = ["httpx>=0.25,<1"]\n')
    write(tmp_path / IGNORED, "")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def accept(repository: Path, *entries: tuple[str, str, date]) -> None:
    texts = [
        f'[[ignore]]\nid = "{number}"\npackage = "{package}"\nreason = "because"\nrevisit = {day}\n'
        for number, package, day in entries
    ]
    write(repository / IGNORED, "\n".join(texts))


@pytest.fixture
def audit(repository: Path, capsys: pytest.CaptureFixture[str]):
    """The command on that repository: (exit status, lines on standard output, what is on standard error)."""

    def run(url: str, *options: str) -> tuple[int, list[str], str]:
        status = main(["--root", str(repository), "--osv-url", url, "--seconds", "60", *options])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    return run


def test_each_version_is_asked_for_once_whatever_platform_it_is_of(audit):
    with database({}) as (url, asked):
        status, lines, _ = audit(url)
    versions = [
        ("httpx", "0.25"),
        ("httpx", "0.28"),
        ("measured", "3"),
        ("old", "2.0.0"),
        ("served", "0.5"),
        ("served", "1.0"),
    ]
    assert sorted(asked) == versions
    assert (status, lines) == (0, [f"audited 6 versions: 0 known vulnerabilities, 0 entries of {IGNORED} used"])


KNOWN = {
    ("served", "1.0"): [advisory("served", "GHSA-new", "CVE-2026-1", fixed="1.1")],
    ("served", "0.5"): [advisory("served", "GHSA-listed", "CVE-2026-2"), advisory("served", "GHSA-late")],
    ("old", "2.0.0"): [advisory("old", "PYSEC-1"), advisory("old", "PYSEC-2")],
    ("measured", "3"): [advisory("measured", "GHSA-bench")],
    ("httpx", "0.25"): [advisory("httpx", "GHSA-lowest")],
}


def test_what_is_known_and_not_listed_is_named_and_fails_and_what_is_listed_is_not(audit, repository):
    accept(
        repository,
        ("CVE-2026-2", "served==0.5", TOMORROW),
        ("GHSA-late", "served==0.5", YESTERDAY),
        ("*", "old==2.0.0", TOMORROW),
        ("GHSA-new", "served==0.9", TOMORROW),
    )
    with database(KNOWN) as (url, _):
        status, lines, _ = audit(url)
    assert status == 1
    assert lines == [
        "(no failure) client/pyproject.toml: httpx==0.25: GHSA-lowest, fixed in 9",
        "(no failure) benchmarks/peers/other/requirements.txt: measured==3: GHSA-bench, fixed in 9",
        f"requirements/stock.txt: served==0.5: GHSA-late, fixed in 9; it was listed until {YESTERDAY}: because",
        "requirements/native.txt: served==1.0: CVE-2026-1 (GHSA-new), fixed in 1.1",
        f"{IGNORED}: nothing is known of served==0.9 as GHSA-new any more; take it out",
        f"audited 6 versions: 7 known vulnerabilities, 3 entries of {IGNORED} used",
    ]


def test_what_is_listed_or_only_told_is_no_failure(audit, repository):
    accept(
        repository,
        ("*", "served==0.5", TOMORROW),
        ("*", "old==2.0.0", TOMORROW),
        ("GHSA-new", "served==1.0", date.today()),
    )
    with database(KNOWN) as (url, _):
        status, lines, _ = audit(url)
    assert status == 0 and len(lines) == 3


@pytest.mark.parametrize("place", [nobody, silence, lambda: database({}, status=500)], ids=["nobody", "silence", "500"])
def test_a_database_that_does_not_answer_is_said_in_a_line_and_fails_only_where_it_is_required(audit, place):
    with place() as where:
        url = where if isinstance(where, str) else where[0]
        patience = ["--seconds", "2"] if place is silence else []
        status, [line], _ = audit(url, *patience)
        assert status == 0
        assert line.startswith(f"NOT audited: {url} ") and line.endswith(" of 6 versions were not looked up")
        if place is nobody:
            assert audit(url, "--required")[0] == 1


def test_a_lock_that_is_not_right_fails_without_a_database(audit, repository):
    write(repository / "requirements/native.txt", f"served==1.0\nhttpx>=0.24 {HASH}\n??? {HASH}\n")
    write(repository / "requirements/stock.in", "served<0.5\nmore\n")
    with nobody() as url:
        status, lines, _ = audit(url)
    assert status == 1
    assert lines[:-1] == [
        f"requirements/native.txt: '??? {HASH}' is no requirement",
        "requirements/native.txt: served==1.0 has no --hash=sha256:, so anything could be installed in its place",
        f"requirements/native.txt: httpx>=0.24 {HASH} is not an exact version; accepted: name==version",
        "requirements/native.txt: has no version of it, and requirements/native.in asks for httpx>=0.25; renew it: make lock",
        "requirements/stock.txt: has 0.5, and requirements/stock.in asks for served<0.5; renew it: make lock",
        "requirements/stock.txt: has no version of it, and requirements/stock.in asks for more; renew it: make lock",
        "requirements/native.txt: has no version of it, and client/pyproject.toml asks for httpx<1,>=0.25; renew it: make lock",
    ]


ENTRY = {"id": '"GHSA-1"', "package": '"a==1"', "reason": '"because"', "revisit": "2027-01-31"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"revisit": '"soon"'}, "ignore.1.revisit: 'soon': Input should be a valid date"),
        ({"revisit": None}, "ignore.1.revisit: "),
        ({"reason": '""'}, "ignore.1.reason: '': String should have at least 1 character"),
        ({"package": '"a>=1"'}, "ignore.1.package: 'a>=1': "),
        ({"until": "2027-01-31"}, "ignore.1.until: '2027-01-31': Extra inputs are not permitted"),
        ({"id": "GHSA"}, "Invalid value"),
    ],
)
def test_an_entry_that_is_not_whole_is_refused_in_a_sentence(audit, repository, changes, said):
    values = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    write(repository / IGNORED, "[[ignore]]\n" + "\n".join(f"{key} = {value}" for key, value in values.items()))
    status, lines, error = audit("http://127.0.0.1:1/")
    assert (status, lines) == (2, [])
    assert error.startswith(f"regnetx: {repository / IGNORED}: {said}") and error.count("\n") == 1
    assert "accepted: " in error and "name==version" in error


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(AuditError, match="No such file"):
        read_ignored(tmp_path / "none.toml")


def test_the_locks_of_this_repository_are_right_and_what_is_accepted_is_in_one_of_them():
    locked = read_locks(ROOT)
    assert locked.faults == []
    assert {"requirements/native.txt", "requirements/stock.txt", "client/pyproject.toml"} <= locked.pins.keys()
    assert Pin.of("paddlepaddle", "3.3.1") in locked.pins["requirements/native.txt"]
    pins = {str(pin) for pins in locked.pins.values() for pin in pins}
    accepted = read_ignored(ROOT / IGNORED)
    assert accepted and {entry.package for entry in accepted} <= pins
