"""`fetch`: a serving model over HTTP, verified before it is unpacked, whole or not there."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_server import Server, running
from running import ROOT

from service.errors import ModelError
from service.ops.model import load_model, verify_files
from serving_models import archive
from serving_models.__main__ import TOKEN_VARIABLE, main
from serving_models.download import DownloadError
from serving_models.fetch import Wanted, fetch_model

PATH = "/models/digits.tar.gz"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def content(digits_model: Path) -> bytes:
    """What ``tar -C serving_models -cz digits`` writes of the exported digits."""
    return packed(digits_model.parent, "digits")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def packed(folder: Path, inside: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=inside)
    return gzip.compress(buffer.getvalue(), compresslevel=0)  # weights hardly get smaller, and it takes a second


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(server: Server, models: Path, **options: Any) -> Path:
    with running(server) as address:
        wanted = Wanted(address + server.path, sha256(server.content), models)
        return fetch_model(dataclasses.replace(wanted, **options), lambda *_: None, patience=5)


def kept(models: Path) -> list[str]:
    """Every file below the folder but the models' own and the empty ones that processes wait at."""
    files = [path.relative_to(models) for path in models.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(file) for file in files if file.parts[0].startswith("."))


@pytest.mark.parametrize("inside", [".", "digits", "any name"])
def test_a_tar_of_a_model_or_of_its_folder_becomes_a_model_that_can_be_served(
    inside: str, digits_model: Path, models: Path
) -> None:
    server = Server(packed(digits_model.parent, inside), PATH)

    assert fetch(server, models) == models / "digits/serving_server"

    model = load_model(models / "digits")
    verify_files(model)
    assert model.labels[:3] == ("zero", "one", "two")
    assert (models / "digits/fetched.sha256").read_text() == f"{sha256(server.content)}\n"
    assert kept(models) == []


def test_the_command_prints_the_path_that_serve_takes(
    content: bytes, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(Server(content, f"{PATH}?signature=1")) as address:
        command = [
            "fetch",
            f"{address}{PATH}?signature=1",
            "--sha256",
            sha256(content).upper(),
            "--to",
            str(models),
            "--name",
            "served",
        ]
        assert main(command) == 0

    assert capsys.readouterr() == (f"{models / 'served/serving_server'}\n", "")


def test_a_model_of_stocks_converter_has_no_model_yml_and_is_fetched_too(digits_model: Path, models: Path) -> None:
    converted = models.parent / "converted"
    shutil.copytree(digits_model, converted / "serving_server")
    server = Server(packed(converted, "converted"), PATH)

    fetch(server, models)
    (models / "digits/serving_server/inference.pdmodel").unlink()

    assert fetch(server, models) == models / "digits/serving_server"
    assert load_model(models / "digits").classes == 10


def test_a_model_that_is_there_from_that_very_tar_is_not_asked_for_again(content: bytes, models: Path) -> None:
    server = Server(content, PATH)
    assert fetch(server, models) == fetch(server, models)
    assert server.ranges == [None]


def test_a_model_that_was_spoiled_on_the_disk_is_fetched_again(content: bytes, models: Path) -> None:
    server = Server(content, PATH)
    fetch(server, models)
    (models / "digits/serving_server/inference.pdiparams").write_bytes(b"spoiled")

    fetch(server, models)

    verify_files(load_model(models / "digits"))
    assert len(server.ranges) == 2


def test_a_model_of_another_tar_is_replaced_only_when_asked(content: bytes, digits_model: Path, models: Path) -> None:
    fetch(Server(content, PATH), models)
    newer = Server(packed(digits_model.parent, "newer"), PATH)

    with pytest.raises(ModelError, match=r"digits: exists already; --force replaces it"):
        fetch(newer, models)
    assert newer.ranges == []
    fetch(newer, models, force=True)

    assert (models / "digits/fetched.sha256").read_text().strip() == sha256(newer.content)


def test_what_is_no_model_is_never_replaced(content: bytes, models: Path) -> None:
    (models / "digits").mkdir(parents=True)
    (models / "digits/thesis.txt").write_text("years of work")

    with pytest.raises(ModelError, match="is no serving model"):
        fetch(Server(content, PATH), models, force=True)
    assert (models / "digits/thesis.txt").exists()


def test_another_sha256_is_refused_before_anything_is_unpacked(
    content: bytes, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "extract", lambda *_: pytest.fail("unpacked"))

    with pytest.raises(ModelError) as refused:
        fetch(Server(content, PATH), models, sha256="0" * 64)

    assert f"SHA-256 is {sha256(content)}, not {'0' * 64}; nothing was kept" in str(refused.value)
    assert not (models / "digits").exists()
    assert kept(models) == []


def test_a_cut_connection_is_gone_on_with_by_this_try_and_by_the_next(content: bytes, models: Path) -> None:
    server = Server(content, PATH, cuts=[100_000, 50_000, 0])
    with pytest.raises(DownloadError, match="digits could not be downloaded: the connection ended at byte 150000"):
        fetch(server, models)
    assert not (models / "digits").exists()

    fetch(server, models)

    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert kept(models) == []


def test_a_part_of_another_tar_is_not_gone_on_with(content: bytes, digits_model: Path, models: Path) -> None:
    with pytest.raises(DownloadError):
        fetch(Server(content, PATH, cuts=[100_000, 0], etag='"same"'), models)
    newer = Server(packed(digits_model.parent, "newer"), PATH, etag='"same"')

    fetch(newer, models)

    assert newer.ranges == [None]
    assert kept(models) == []


@pytest.mark.parametrize(
    ("announced", "limit"), [(None, 100_000), (1 << 40, 4 << 30)], ids=["sends too much", "announces too much"]
)
def test_a_file_that_is_larger_than_any_model_is_not_waited_for(
    announced: int | None, limit: int, content: bytes, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", limit)

    with pytest.raises(ModelError, match=r"digits: more than \d GiB; a model has less"):
        fetch(Server(content, PATH, announced=announced), models)
    assert kept(models) == []


def member(name: str, **attributes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>sign in first</html>", "not a tar, plain or compressed"),
        (tar_of(member("../../escaped")), "'../../escaped' leaves the archive's own folder"),
        (tar_of(member("/tmp/escaped")), "'/tmp/escaped' leaves the archive's own folder"),
        (tar_of(member("m/link", type=tarfile.SYMTYPE, linkname="/etc")), "'m/link' is a link or a device"),
        (tar_of(member("m/null", type=tarfile.CHRTYPE)), "'m/null' is a link or a device"),
        (tar_of(member("notes.txt", size=3)), "notes.txt in it; accepted is a tar of a serving model"),
        (tar_of(), "nothing in it; accepted is a tar of a serving model"),
        (tar_of(member("m/notes.txt", size=3)), "no model.yml in it"),
    ],
)
def test_a_tar_that_is_no_serving_model_is_refused_by_its_address(content: bytes, message: str, models: Path) -> None:
    with pytest.raises(ModelError) as refused:
        fetch(Server(content, PATH), models)

    assert message in str(refused.value)
    assert f"{PATH}" in str(refused.value) and str(models) not in str(refused.value)
    assert [path.name for path in models.iterdir()] == [".fetch"]
    assert not (models.parent / "escaped").exists()


def test_a_model_whose_files_are_not_those_of_its_model_yml_is_refused(digits_model: Path, models: Path) -> None:
    other = models.parent / "other"
    shutil.copytree(digits_model.parent, other)
    (other / "serving_server/inference.pdiparams").write_bytes(b"other weights")

    with pytest.raises(ModelError, match=r"digits\.tar\.gz/digits/serving_server/inference\.pdiparams: SHA-256 is"):
        fetch(Server(packed(other, "digits"), PATH), models)
    assert not (models / "digits").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "file:///etc/digits.tar"}, "accepted is an address that begins with http:// or https://"),
        ({"url": "http://user:secret@127.0.0.1/digits.tar"}, "holds a user's name; accepted is a token"),
        ({"url": "http://127.0.0.1/"}, "name '': accepted are letters"),
        ({"url": "http://127.0.0.1/..%2f..%2fdigits.tar"}, "name '../../digits': accepted are letters"),
        ({"name": ".fetch"}, "name '.fetch': accepted are letters"),
        ({"sha256": "1234"}, "--sha256 '1234': accepted are the 64 hex digits that sha256sum prints"),
        ({"token": "two words"}, "the token is empty or holds a space"),
        ({"token": ""}, "the token is empty or holds a space"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_asked(
    options: dict[str, Any], message: str, content: bytes, models: Path
) -> None:
    server = Server(content, PATH)
    with pytest.raises(ModelError) as refused:
        fetch(server, models, **options)

    assert message in str(refused.value)
    assert "secret" not in str(refused.value) and "two words" not in str(refused.value)
    assert server.ranges == [] and not models.exists()


def in_the_environment(monkeypatch: pytest.MonkeyPatch, _: Path) -> list[str]:
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    return []


def in_a_file(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    monkeypatch.setenv(TOKEN_VARIABLE, "another")
    (folder / "token").write_text("s3cret\n")
    return ["--token-file", str(folder / "token")]


@pytest.mark.parametrize("given", [in_the_environment, in_a_file])
def test_a_token_goes_to_the_server_and_nowhere_else(
    given: Callable[[pytest.MonkeyPatch, Path], list[str]],
    content: bytes,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = given(monkeypatch, models.parent)
    storage = Server(content, "/storage?signature=hidden", cuts=[1000, 0])
    with running(storage) as behind:
        private = Server(b"", PATH, redirect=behind + storage.path)
        with running(private) as address:
            command = ["fetch", address + PATH, "--sha256", sha256(content), "--to", str(models), *token]
            assert main(command) == 1  # cut twice, so that a message is printed
            assert main(command) == 0

    assert set(private.authorizations) == {"Bearer s3cret"}
    assert set(storage.authorizations) == {None}
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err and "hidden" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server answered 401 Unauthorized"),
        (403, r"digits\.tar\.gz \(403\)"),
        (404, r"digits\.tar\.gz \(404\)"),
        (503, "503"),
    ],
)
def test_a_server_that_refuses_is_one_sentence_without_the_query(
    status: int, message: str, content: bytes, models: Path
) -> None:
    server = Server(content, f"{PATH}?signature=hidden", status=status)
    if status == 404:
        server.status, server.path = 200, "/nothing?signature=hidden"
    with running(server) as address, pytest.raises(DownloadError, match=message) as refused:
        wanted = Wanted(f"{address}{PATH}?signature=hidden", sha256(content), models)
        fetch_model(wanted, lambda *_: None, patience=5)
    assert "hidden" not in str(refused.value)


def test_without_a_server_the_command_ends_with_1_and_one_line(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/digits.tar"
        assert main(["fetch", url, "--sha256", "0" * 64, "--to", str(models)]) == 1

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: digits could not be downloaded: no connection to 127.0.0.1:")


def test_a_token_file_that_is_none_is_one_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fetch", "http://127.0.0.1/digits.tar", "--sha256", "0" * 64, "--to", str(models), "--token-file"]
    assert main([*command, str(models / "nowhere")]) == 1
    assert main([*command, sys.executable]) == 2

    missing, binary = capsys.readouterr().err.splitlines()
    assert missing == f"error: {models / 'nowhere'}: No such file or directory"
    assert binary == f"error: {sys.executable}: not a token; accepted is ASCII text"


def test_two_that_want_the_same_model_ask_for_it_once(content: bytes, models: Path) -> None:
    server = Server(content, PATH)
    with running(server) as address:
        command = [sys.executable, "-m", "serving_models", "fetch", address + PATH, "--sha256", sha256(content)]
        both = [
            subprocess.Popen([*command, "--to", str(models)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        answers = [process.communicate(timeout=60)[0] for process in both]

    assert answers == [f"{models / 'digits/serving_server'}\n"] * 2
    assert server.ranges == [None]


def test_fetching_needs_no_paddle_and_ends_at_a_sigterm(models: Path) -> None:
    program = (
        "import sys; from serving_models.__main__ import main; status = main();"
        "assert 'paddle' not in sys.modules; sys.exit(status)"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/digits.tar"
        command = [sys.executable, "-c", program, "fetch", url, "--sha256", "0" * 64, "--to", str(models)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        try:
            with silent.accept()[0]:
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, err) == (130, "error: interrupted, nothing was written\n")
