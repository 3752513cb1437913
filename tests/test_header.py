"""bytes -> ImageHeader."""

import struct
import zlib

import pytest
from photographs import encode, picture

from service.errors import ImageError
from service.ops.header import ImageHeader, read_header


def riff(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def png_of(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WebP", "BMP", "GIF"])
@pytest.mark.parametrize("size", [(1, 1), (61, 37), (37, 61), (300, 1)])
def test_each_format_is_told_with_its_size(image_format, size):
    assert read_header(encode(picture(*size), image_format)) == ImageHeader(image_format, *size)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"\xff\xc0 is no frame in a comment \xff\xd9" * 99}),
        ("WebP", {"lossless": True}),
        ("WebP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
        ("WebP", {"save_all": True, "append_images": [picture().rotate(90)]}),
        ("PNG", {"save_all": True, "append_images": [picture().rotate(90)]}),
        ("GIF", {"save_all": True, "append_images": [picture().rotate(90)], "comment": b"c" * 999, "loop": 3}),
    ],
)
def test_the_size_is_found_in_every_variant_of_a_format(image_format, options):
    assert read_header(encode(picture(), image_format, **options)) == ImageHeader(image_format, 61, 37)


def test_the_largest_webp_sizes_are_read_in_full():
    extended = riff(b"VP8X", struct.pack("<IHBHB", 0, 0xFFFE, 0x01, 0x0000, 0x02))
    assert read_header(extended) == ImageHeader("WebP", 0x1FFFF, 0x20001)
    lossless = riff(b"VP8L", struct.pack("<BI", 0x2F, 0x3FFF | 0x3FFF << 14))
    assert read_header(lossless) == ImageHeader("WebP", 16384, 16384)


def test_a_bmp_whose_rows_run_from_the_top_has_a_positive_height():
    data = bytearray(encode(picture(), "BMP"))
    data[22:26] = struct.pack("<i", -37)
    assert read_header(bytes(data)) == ImageHeader("BMP", 61, 37)


def test_a_bmp_of_os2_is_read():
    assert read_header(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 5, 3, 1, 24)) == ImageHeader("BMP", 5, 3)


def test_a_gif_frame_beyond_the_screen_counts_with_its_offset():
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 200, 0x80, 0, 0) + bytes(6)  # and a table of two colours
    extension = b"!\xfe\x03a,b\0"
    assert read_header(screen + extension + struct.pack("<cHHHH", b",", 7, 8, 61, 37)) == ImageHeader("GIF", 68, 200)


def test_a_size_is_read_from_few_bytes_so_that_a_bomb_costs_nothing():
    assert read_header(png_of(2**31 - 1, 2**31 - 1)) == ImageHeader("PNG", 2**31 - 1, 2**31 - 1)


def test_stray_bytes_between_jpeg_segments_are_skipped():
    data = encode(picture(), "JPEG")
    first_segment = 2 + 2 + 16  # SOI, then JFIF
    stray = data[:first_segment] + b"stray\xff\x00\xff\xff" + data[first_segment:]
    assert read_header(stray) == ImageHeader("JPEG", 61, 37)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello world!", r"^12 bytes, but not an image we can read \(accepted: JPEG, PNG, WebP, BMP, GIF\)$"),
        (b"BMW is a maker of cars and motorcycles", "^38 bytes, but not an image"),
        (b"\x00\x00\x00\x20ftypavif" + bytes(99), "^111 bytes, but not an image"),
        (b"II*\0" + bytes(99), "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
        (b"\xff\xd8\xff", "^JPEG truncated: 3 bytes end before the image size$"),
        (b"\xff\xd8\xff\xd9", "^JPEG damaged: no frame header before the image data$"),
        (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000, "^JPEG damaged: more than 4096 segments$"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x10", "^JPEG damaged: 16x0 pixels$"),
        (b"\x89PNG\r\n\x1a\n", "^PNG truncated: 8 bytes end before the image size$"),
        (png_of(0, 5), "^PNG damaged: 0x5 pixels$"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT" + bytes(20), "^PNG damaged: the first chunk is b'IDAT', not IHDR$"),
        (riff(b"VP8 ", bytes(20)), "^WebP damaged: the first chunk, b'VP8 ', has no image size$"),
        (riff(b"VP8L", bytes(20)), "^WebP damaged: the first chunk, b'VP8L'"),
        (riff(b"ALPH", bytes(20)), "^WebP damaged: the first chunk, b'ALPH'"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, -5, 3), "^BMP damaged: -5x3 pixels$"),
        (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", "^GIF damaged: no frame$"),
        (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"!\xfe" + b"\x01c" * 5000, "^GIF damaged: more than 4096"),
        (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"!\xfe\0" * 5000, "^GIF damaged: more than 4096 ext"),
        (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"," + bytes(9), "^GIF damaged: a first frame of 0x0"),
    ],
)
def test_what_is_not_an_image_is_refused_with_what_was_found(data, message):
    with pytest.raises(ImageError, match=message):
        read_header(data)
