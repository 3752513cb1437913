"""A tar is unpacked whole or refused: damage that tarfile itself takes for the end of the archive is noticed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import ModelError
from serving_models import archive

FILES = {"m/inference.pdiparams": bytes(range(256)) * 64, "m/inference.yml": b"PreProcess: {}\n"}
# The header of the second member: behind the first one's, and its 16384 bytes.
SECOND_HEADER = 512 + 16384


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_becomes_a_folder_of_its_files(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(compress(a_tar()))

    archive.check(tmp_path / "m.tar")
    archive.extract(tmp_path / "m.tar", tmp_path / "folder")

    assert unpacked(tmp_path / "folder") == FILES


def test_one_block_of_zeros_is_an_end_and_two_are_not_needed(tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(a_tar()[: SECOND_HEADER + 512 + 512 + 512])

    archive.extract(tmp_path / "m.tar", tmp_path / "folder")

    assert unpacked(tmp_path / "folder") == FILES


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(a_tar()[:SECOND_HEADER], id="cut between two members"),
        pytest.param(a_tar()[: SECOND_HEADER + 100], id="cut in a header"),
        pytest.param(a_tar()[: SECOND_HEADER + 512 + 5], id="cut in a member"),
        pytest.param(a_tar()[:SECOND_HEADER] + b"\xff" + a_tar()[SECOND_HEADER + 1 :], id="a damaged header"),
    ],
)
def test_a_tar_that_lost_a_member_is_refused_and_nothing_unpacked(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(content)

    with pytest.raises(ModelError, match=r"m\.tar: damaged or cut short: "):
        archive.extract(tmp_path / "m.tar", tmp_path / "folder")
    with pytest.raises(ModelError, match=r"m\.tar: damaged or cut short: "):
        archive.check(tmp_path / "m.tar")
    assert unpacked(tmp_path / "folder") == {}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_damage_within_compressed_bytes_is_refused(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = bytearray(compress(a_tar()))
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    (tmp_path / "m.tar").write_bytes(content)

    with pytest.raises(ModelError, match=r"m\.tar: (damaged or cut short|not a tar)"):
        archive.extract(tmp_path / "m.tar", tmp_path / "folder")


def test_what_is_no_tar_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(b"<html>sign in first</html>")

    with pytest.raises(ModelError, match=r"m\.tar: not a tar"):
        archive.check(tmp_path / "m.tar")


def test_a_tar_of_nothing_passes_no_check(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "m.tar", "w"):
        pass

    with pytest.raises(ModelError, match=r"m\.tar: an empty tar"):
        archive.check(tmp_path / "m.tar")


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 16384), ("MAX_MEMBERS", 1)])
def test_a_tar_of_too_much_is_refused_before_anything_is_unpacked(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.tar").write_bytes(a_tar())
    monkeypatch.setattr(archive, limit, value)

    with pytest.raises(ModelError, match="an inference model has less"):
        archive.extract(tmp_path / "m.tar", tmp_path / "folder")
    assert unpacked(tmp_path / "folder") == {}


@pytest.mark.parametrize("name", ["../inference.pdmodel", "/tmp/inference.pdmodel"])
def test_a_tar_that_would_write_elsewhere(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())

    with pytest.raises(ModelError, match=f"'{name}' leaves the archive's own folder"):
        archive.extract(tmp_path / "evil.tar", tmp_path / "folder")
    assert unpacked(tmp_path) == {"evil.tar": (tmp_path / "evil.tar").read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_links_or_devices(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("inference.pdmodel")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(member)

    with pytest.raises(ModelError, match=r"'inference\.pdmodel' is a link or a device"):
        archive.extract(tmp_path / "evil.tar", tmp_path / "folder")
