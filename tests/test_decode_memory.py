"""What decoding takes of a frontend's memory, by format, and that it is given back. A real service, images at the limit."""

from __future__ import annotations

import contextlib
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from animations import animated_png
from calling import infer
from image_files import png
from photographs import encode, with_orientation
from PIL import Image
from running import quick, serving

WIDTH, HEIGHT = 4000, 3000
PIXELS = WIDTH * HEIGHT
THREADS = 2
SLACK = 20 << 20  # the encoded file and its copies, tables of the decoders, what Python keeps


def still(mode: str = "RGB", colour: object = (10, 200, 30)) -> Image.Image:
    return Image.new(mode, (WIDTH, HEIGHT), colour)


def colourful(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """More colours than a palette holds, and an alpha channel."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, (x // 64 * 7 + y // 64 * 11) % 256, (x // 16 + y // 16) % 255 + 1]
    return Image.fromarray(np.dstack(channels).astype(np.uint8))


def webp(image: Image.Image, **options: object) -> bytes:
    return encode(image, "WebP", method=0, **options)


def jpeg(image: Image.Image, **options: object) -> bytes:
    return encode(image, "JPEG", quality=5, **options)


def progressive(image: Image.Image, **options: object) -> bytes:
    return jpeg(image, progressive=True, subsampling=0, **options)


# Bytes a pixel as docs/serving.md has them, and a file of that kind with the most pixels that are accepted.
KINDS = {
    "JPEG": (3, lambda: jpeg(still())),
    "JPEG CMYK": (3, lambda: jpeg(still("CMYK", (9, 8, 7, 6)))),
    "JPEG turned": (6, lambda: jpeg(still(), exif=with_orientation(6))),
    "JPEG progressive, 4:2:0": (6, lambda: jpeg(still(), progressive=True)),
    "JPEG progressive": (9, lambda: progressive(still())),
    "JPEG progressive, turned": (9, lambda: progressive(still(), exif=with_orientation(6))),
    "JPEG progressive, CMYK": (11, lambda: progressive(still("CMYK", (9, 8, 7, 6)))),
    "PNG": (3, lambda: encode(still(), "PNG", compress_level=1)),
    "PNG palette": (3, lambda: encode(still("P", 7), "PNG", compress_level=1)),
    "PNG 16 bits, alpha": (3, lambda: png(np.zeros((HEIGHT, WIDTH, 4), np.uint16))),
    "PNG turned": (6, lambda: encode(still(), "PNG", compress_level=1, exif=with_orientation(6))),
    "WebP": (3, lambda: webp(still(), quality=5)),
    "WebP lossless": (9, lambda: webp(colourful().convert("RGB"), lossless=True)),
    "WebP lossless, alpha": (9, lambda: webp(colourful(), lossless=True)),
    "WebP alpha": (9, lambda: webp(colourful(), quality=5)),
    "BMP": (6, lambda: encode(still("1", 1), "BMP")),
    "GIF": (4, lambda: encode(still("P", 7), "GIF")),
    "GIF grey": (4, lambda: encode(still("L", 7), "GIF")),
    "PNG animated": (3, lambda: animated_png(np.zeros((HEIGHT, WIDTH, 4), np.uint16), still_is_hidden=True)),
    "WebP animated": (15 / 4, lambda: webp(
        colourful(WIDTH // 2, HEIGHT // 2), lossless=True, save_all=True,
        append_images=[Image.new("RGB", (WIDTH // 2, HEIGHT // 2))],
    )),
}  # fmt: skip
MOST = max(figure for figure, _ in KINDS.values())


@cache
def file(kind: str) -> bytes:
    return KINDS[kind][1]()


@pytest.fixture(scope="module")
def frontend(digits_model, tmp_path_factory):
    """A service whose images may have as many pixels as those here."""
    config = quick(digits_model, native={"max_image_pixels": PIXELS, "decode_threads": THREADS})
    with serving(tmp_path_factory.mktemp("decoding"), config) as running:
        infer(running)
        yield running


def memory(service, which: str) -> int:
    """Bytes of the frontend: VmRSS, that it has now, VmHWM, the most since ``forget_peak``."""
    [pid] = service.children()["frontend"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def forget_peak(service) -> None:
    [pid] = service.children()["frontend"]
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def classify(service, kind: str) -> None:
    with contextlib.closing(http.client.HTTPConnection(service.http, timeout=60)) as caller:
        caller.request("POST", "/regnet/prediction", file(kind), {"Content-Type": "image/png"})
        response = caller.getresponse()
        answer = json.loads(response.read())
    assert (response.status, answer["err_no"]) == (200, 0), answer


@pytest.fixture(scope="module")
def at_rest(frontend) -> int:
    """Bytes of the frontend before it has seen a large image."""
    return memory(frontend, "VmRSS")


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_takes_no_more_memory_than_its_kind_is_said_to(frontend, at_rest, kind):
    file(kind)
    forget_peak(frontend)
    classify(frontend, kind)
    assert memory(frontend, "VmHWM") - at_rest < KINDS[kind][0] * PIXELS + SLACK


def test_many_callers_make_a_frontend_take_no_more_than_its_decode_threads_do(frontend, at_rest):
    forget_peak(frontend)
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(classify, [frontend] * 16, ["JPEG progressive, CMYK", "GIF"] * 8))
    assert memory(frontend, "VmHWM") - at_rest < THREADS * MOST * PIXELS + SLACK


def test_memory_is_given_back_after_large_images(frontend, at_rest):
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(classify, [frontend] * 2 * len(KINDS), list(KINDS) * 2))
    small = 3 * PIXELS // 4  # of an animated image; what is less than ``LARGE`` pixels stays for the next one
    assert memory(frontend, "VmRSS") - at_rest < THREADS * small + SLACK
