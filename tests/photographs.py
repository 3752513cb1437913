"""Photographs that ship inside scikit-learn, and how tests encode them."""

import importlib.util
from io import BytesIO
from pathlib import Path

from PIL import Image

NAMES = ("china.jpg", "flower.jpg")  # 640x427, JPEG


def photograph(name: str = "china.jpg") -> bytes:
    """The JPEG file as it ships, found without importing scikit-learn."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None and found.origin is not None
    return (Path(found.origin).parent / "datasets" / "images" / name).read_bytes()


def picture(width: int = 61, height: int = 37, name: str = "china.jpg") -> Image.Image:
    """A photograph scaled to a size, RGB."""
    resized = Image.open(BytesIO(photograph(name))).convert("RGB").resize((width, height))
    resized.info.clear()  # its ICC profile would travel into every PNG, and libpng complains of it
    return resized


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of an image file of that format, by Pillow."""
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def with_orientation(value: int) -> Image.Exif:
    """EXIF data that says only how the picture is to be turned, 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif
