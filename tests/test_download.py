"""Downloads against a server of our own that cuts, lies, refuses and forgets."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
from file_server import Server, running

from serving_models import download
from serving_models.__main__ import main
from serving_models.download import ADDRESS_VARIABLE, DownloadError, cache_folder, fetch_official

NAME = "RegNetX_200MF_infer.tar"
PATH = f"/inference/{NAME}"


def a_tar(seed: int) -> bytes:
    buffer = io.BytesIO()
    content = hashlib.shake_128(bytes([seed])).digest(300_000)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("inference.pdiparams")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


CONTENT = a_tar(1)


def a_server(**options: Any) -> Server:
    return Server(**({"content": CONTENT, "path": PATH} | options))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache/regnetx-serving"


def fetch(address: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    monkeypatch.setenv(ADDRESS_VARIABLE, address)
    return fetch_official("RegNetX_200MF", lambda *_: None, **options)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_fetched_once_and_its_sha256_recorded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server()
    with running(server) as address:
        path = fetch(address, monkeypatch)
        assert fetch(address, monkeypatch) == path == cache / NAME

    assert path.read_bytes() == CONTENT
    assert (cache / f"{NAME}.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"
    assert server.ranges == [None]
    assert kept(cache) == [NAME, f"{NAME}.sha256"]


def test_a_file_in_the_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(a_server()) as address:
        path = fetch(address, monkeypatch)

    assert fetch(address, monkeypatch) == path


@pytest.mark.parametrize("spoiled", [NAME, f"{NAME}.sha256"])
def test_what_was_spoiled_in_the_cache_is_fetched_again(
    spoiled: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = a_server()
    with running(server) as address:
        fetch(address, monkeypatch)
        (cache / spoiled).write_bytes(b"\xff\xfe")

        assert fetch(address, monkeypatch).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_progress_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int | None]] = []
    with running(a_server()) as address:
        monkeypatch.setenv(ADDRESS_VARIABLE, address)
        fetch_official("RegNetX_200MF", lambda *step: told.append(step))

    assert told[-1] == (NAME, len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_gone_on_with_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(cuts=[100_000, 50_000])
    with running(server) as address:
        assert fetch(address, monkeypatch).read_bytes() == CONTENT

    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_download_that_was_given_up_is_resumed_by_the_next(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(cuts=[100_000, 0])
    with running(server) as address:
        with pytest.raises(DownloadError, match=f"{NAME} could not be downloaded: the connection ended at byte 100000"):
            fetch(address, monkeypatch)
        assert (cache / f"{NAME}.part").stat().st_size == 100_000

        assert fetch(address, monkeypatch).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert kept(cache) == [NAME, f"{NAME}.sha256"]


def test_a_part_of_an_older_version_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(cuts=[100_000, 0])
    with running(server) as address:
        with pytest.raises(DownloadError):
            fetch(address, monkeypatch)
        server.content = a_tar(2)

        assert fetch(address, monkeypatch).read_bytes() == a_tar(2)


def test_a_server_without_ranges_sends_it_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(cuts=[100_000], honours_ranges=False)
    with running(server) as address:
        assert fetch(address, monkeypatch).read_bytes() == CONTENT


def test_a_part_that_is_the_whole_file_is_taken_as_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server()
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(CONTENT)
    (cache / f"{NAME}.part.version").write_text(server.tag)
    with running(server) as address:
        assert fetch(address, monkeypatch).read_bytes() == CONTENT

    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_longer_than_the_file_starts_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server()
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(CONTENT + b"more")
    (cache / f"{NAME}.part.version").write_text(server.tag)
    with running(server) as address:
        assert fetch(address, monkeypatch).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (a_server(etag=f'"{"0" * 32}"'), "MD5 .*, where the server announced 0000"),
        (a_server(content=b"<html>sign in first</html>"), "not a tar"),
        (a_server(content=b""), "the server answered 416"),
    ],
)
def test_a_damaged_file_is_not_kept(server: Server, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(server) as address, pytest.raises(DownloadError, match=message):
        fetch(address, monkeypatch)

    assert NAME not in kept(cache)
    assert f"{NAME}.part" not in kept(cache)


def test_fewer_bytes_than_announced_are_not_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(announced=len(CONTENT) + 10, honours_ranges=False)
    with running(server) as address, pytest.raises(DownloadError, match="the connection ended at byte"):
        fetch(address, monkeypatch)

    assert NAME not in kept(cache)


def test_weights_are_fetched_where_there_is_no_inference_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "read_weights", lambda _: {})
    with running(a_server(path="/RegNetX_200MF_pretrained.pdparams")) as address:
        assert fetch(address, monkeypatch).name == "RegNetX_200MF_pretrained.pdparams"


def test_weights_that_cannot_be_read_are_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = a_server(path="/RegNetX_200MF_pretrained.pdparams", content=b"\x80\x04N.")
    with running(server) as address, pytest.raises(DownloadError, match="what came is damaged, nothing was kept"):
        fetch(address, monkeypatch)

    assert "RegNetX_200MF_pretrained.pdparams" not in kept(cache)


def test_neither_of_both_names_both_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(a_server(path="/nothing")) as address, pytest.raises(DownloadError) as refused:
        fetch(address, monkeypatch)

    assert f"the server has neither {address}{PATH} (404) nor {address}/RegNetX_200MF_pretrained.pdparams" in str(
        refused.value
    )


def test_a_server_that_fails_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(a_server(status=503)) as address, pytest.raises(DownloadError, match="the server answered 503"):
        fetch(address, monkeypatch)


def test_without_a_network_one_sentence_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv(ADDRESS_VARIABLE, f"http://127.0.0.1:{port}")

        assert main(["export", "regnetx_200mf", "--to", str(tmp_path / "models")]) == 1

    expected = (
        f"error: {NAME} could not be downloaded: no connection to 127.0.0.1:{port} ([Errno 111] Connection refused)\n"
    )
    assert capsys.readouterr().err == expected
    assert list((tmp_path / "models").iterdir()) == []


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DownloadError, match="no connection to"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, patience=0.2)


@pytest.mark.parametrize("address", ["file:///etc", "/etc", "http://", "http://[::1", "http://host:99999"])
def test_an_address_that_is_none_says_what_is_accepted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError) as refused:
        fetch(address, monkeypatch)

    assert f"{ADDRESS_VARIABLE}={address}: accepted is an address that begins with http://" in str(refused.value)


def test_without_a_home_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)

    with pytest.raises(DownloadError, match="there is no home folder for a cache, XDG_CACHE_HOME can name another"):
        cache_folder()


def test_the_cache_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_folder() == tmp_path / ".cache/regnetx-serving"
