"""Base64 text of an image becomes its file, as leniently as stock takes it, and its size is known before."""

import base64
import json
import random
from pathlib import Path

import pytest

from service.contract.encoded_image import EncodedImage, decode_base64, decoded_size_bound, file_of
from service.errors import ImageError

RECORDED = json.loads((Path(__file__).parent / "recorded" / "service.json").read_text(encoding="utf-8"))
PNG = base64.b64decode(RECORDED[0]["fields"]["value"][0])


@pytest.mark.parametrize("prefix", ["data:image/jpeg;base64,", "data:;base64,", "data:image/png;name=a.png;base64,"])
def test_a_data_url_is_taken_as_its_base64(prefix):
    assert decode_base64(prefix + base64.b64encode(PNG).decode()) == PNG


@pytest.mark.parametrize("text", ["data:image/png,AAAA", "data:" + ";" * 10_000, "data:"])
def test_other_data_urls_are_read_as_stock_reads_them(text):
    try:
        expected = base64.b64decode(text.encode())
    except ValueError as error:
        with pytest.raises(ImageError) as refused:
            decode_base64(text)
        assert str(refused.value) == str(error)
    else:
        assert decode_base64(text) == expected


def test_the_size_of_an_image_is_bounded_before_it_is_decoded():
    dice = random.Random(30)
    for count in range(200):
        content = dice.randbytes(count)
        for text in (base64.b64encode(content).decode(), base64.encodebytes(content).decode()):
            assert count <= decoded_size_bound(text) == EncodedImage("a", text, True).size_bound
            assert file_of(EncodedImage("a", text, True)) == content
    assert decoded_size_bound("A" * 4000) == 3000
    assert EncodedImage("a", b"abc", False).size_bound == 3


def test_whatever_the_text_it_is_decoded_as_by_the_standard_library_or_refused_in_its_words():
    dice = random.Random(33)
    for _ in range(5000):
        text = base64.b64encode(dice.randbytes(dice.randrange(14))).decode()
        for _ in range(dice.randrange(4)):
            place = dice.randrange(len(text) + 1)
            text = (
                text[:place]
                + dice.choice(["=", "==", "\n", " ", "A", "-", "é", ""])
                + text[place + dice.randrange(2) :]
            )
        try:
            expected = base64.b64decode(text.encode())
        except ValueError as error:
            expected = str(error)
        try:
            assert decode_base64(text) == expected
        except ImageError as error:
            assert str(error) == expected
