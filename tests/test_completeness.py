"""Truncated, endless and damaged files: the whole image or an error, never half an image."""

import random

import numpy as np
import pytest
from image_files import FILES
from photographs import photograph

from service.errors import ImageError
from service.ops.decode import Limits, decode
from service.ops.header import read_header

LIMITS = Limits()
every_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())


def test_a_jpeg_of_many_scans_is_refused():
    data = FILES["JPEG progressive"]
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"^JPEG with 11\d scans, at most 50 accepted$"):
        decode(data[:-2] + last_scan * 100 + data[-2:], LIMITS)


def test_a_png_of_endless_chunks_is_refused():
    data = FILES["PNG"]
    with pytest.raises(ImageError, match=r"^PNG damaged: more than 65536 chunks$"):
        decode(data[:33] + b"\0\0\0\0teSt\0\0\0\0" * 65536 + data[33:], LIMITS)


@every_file
def test_a_truncated_file_is_refused_at_every_cut_or_decodes_to_the_whole(data):
    whole = decode(data, LIMITS)
    refused = 0
    for cut in range(0, len(data), 1 if len(data) < 4000 else 3):
        try:
            image = decode(data[:cut], LIMITS)
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(image, whole)
    assert refused > 0


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("JPEG", 900, "^JPEG truncated: 900 bytes end in scan 1, before the end-of-image marker$"),
        ("PNG", 999, r"^PNG truncated: 999 bytes end in the chunk 'IDAT' of \d+ bytes$"),
        ("WebP lossy", 400, r"^WebP truncated: 400 of \d+ bytes$"),
        ("BMP", 6000, "^BMP truncated: 6000 of 6862 bytes$"),
        ("GIF", 2000, "^GIF truncated or damaged: 2000 bytes that cannot be decoded$"),
    ],
)
def test_a_truncated_file_is_named_as_such(name, cut, message):
    with pytest.raises(ImageError, match=message):
        decode(FILES[name][:cut], LIMITS)


def test_a_photograph_that_lost_its_end_is_refused():
    data = photograph()
    for kept in (0.1, 0.5, 0.9, 0.999):
        with pytest.raises(ImageError, match=r"^JPEG truncated"):
            decode(data[: int(len(data) * kept)], LIMITS)


def test_damaged_pixels_are_refused_where_the_format_can_tell():
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match=rf"^PNG damaged: {len(data)} bytes that cannot be decoded$"):
        decode(data, LIMITS)


def damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    reach = min(len(data), chance.choice((40, 120, len(data))))
    for _ in range(chance.randint(1, 5)):
        changed[chance.randrange(reach)] = chance.randrange(256)
    if chance.random() < 0.2:
        start = chance.randrange(len(data))
        del changed[start : start + chance.randint(1, 50)]
    return bytes(changed)


@every_file
def test_a_damaged_file_is_an_image_of_its_declared_size_or_an_error(data):
    chance = random.Random(6)
    limits = Limits(max_pixels=2_000_000)
    for _ in range(100):
        changed = damaged(data, chance)
        try:
            image = decode(changed, limits)
        except ImageError:
            continue
        header = read_header(changed)
        assert sorted(image.shape) == sorted((header.height, header.width, 3))


@pytest.mark.parametrize(
    "start",
    [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\1\0\0WEBP", b"GIF89a", b"BM" + bytes(12) + b"\x28\0\0\0"],
)
def test_random_bytes_are_always_an_error(start):
    chance = random.Random(7)
    for _ in range(300):
        with pytest.raises(ImageError):
            decode(start + chance.randbytes(chance.randrange(1, 200)), LIMITS)
