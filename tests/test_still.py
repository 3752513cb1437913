"""An animated PNG loses its animation before OpenCV sees it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from animations import chunks_of
from fuzz.image_target import ImageTarget
from fuzz.session import checking
from image_files import FILES
from photographs import encode, picture, with_orientation

from service.ops.decode import Limits, decode
from service.ops.header import read_header
from service.ops.still import still

CORPUS = Path(__file__).parent / "fuzz/corpus/image"


def without_animation(data: bytes) -> bytes:
    return still(data, read_header(data))


@pytest.mark.parametrize("name", [name for name in FILES if name != "PNG animated"])
def test_what_is_no_animated_png_is_left_as_it_is(name: str) -> None:
    assert without_animation(FILES[name]) is FILES[name]


def test_only_the_chunks_before_the_image_data_that_speak_of_an_animation_are_left_out() -> None:
    kinds = [kind for kind, _ in chunks_of(FILES["PNG animated"])]
    assert kinds == [b"IHDR", b"acTL", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"IEND"]
    header, _, _, *rest = chunks_of(FILES["PNG animated"])
    assert list(chunks_of(without_animation(FILES["PNG animated"]))) == [header, *rest]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("default_image", [False, True], ids=["in the animation", "beside it"])
def test_the_image_is_the_one_that_readers_without_animation_show(mode: str, default_image: bool) -> None:
    first, second = picture().convert(mode), picture().rotate(180).convert(mode)
    data = encode(first, "PNG", save_all=True, append_images=[second, first], default_image=default_image)
    np.testing.assert_array_equal(decode(data, Limits()), decode(encode(first, "PNG"), Limits()))


def test_an_animated_png_is_turned_as_any_other() -> None:
    options = {"save_all": True, "append_images": [picture().rotate(180)]}
    data = encode(picture(), "PNG", exif=with_orientation(6), **options)
    expected = decode(encode(picture(), "PNG", exif=with_orientation(6)), Limits())
    np.testing.assert_array_equal(decode(data, Limits()), expected)


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_an_animation_with_a_damaged_frame_does_not_end_the_process(file: Path) -> None:
    with checking(ImageTarget(), Path()) as check:  # decodes in another process, which may die
        assert check([file.read_bytes()]) is None
