"""An image of a request as it came, base64 text or bytes -> the bytes of its encoded file."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import pybase64

from service.contract.npy import Array
from service.errors import ImageError

# PipelineClient.predict(profile=True) adds it; stock's own op takes it for an image and fails
PROFILE_KEY = "pipeline.profile"
_DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4};base64,")


@dataclass(frozen=True)
class EncodedImage:
    """One image of a request, not decoded in any way yet."""

    key: str
    data: bytes | str
    is_base64: bool

    @property
    def size_bound(self) -> int:
        """At most this many bytes will ``file_of`` return; costs nothing."""
        return decoded_size_bound(self.data) if isinstance(self.data, str) else len(self.data)


def image_of(key: str, value: str | Array) -> EncodedImage:
    """A text is the base64 of an image file, a 1-d uint8 array the file itself. Raises ImageError for other arrays."""
    if isinstance(value, str):
        return EncodedImage(key, value, is_base64=True)
    if value.dtype == "uint8" and len(value.shape) == 1:
        return EncodedImage(key, value.data, is_base64=False)
    raise ImageError(
        f"{shown(key)} is an array of {value.dtype} of shape {value.shape}; "
        "accepted are base64 text and a 1-d uint8 array, both of an encoded image file"
    )


def named(error: ImageError, image: EncodedImage, *, is_one_of_many: bool) -> ImageError:
    """The error with stock's words alone for a lone image; of several, it must be said which."""
    return ImageError(f"{error} (key {image.key[:80]})" if is_one_of_many else str(error))


def shown(name: str) -> str:
    """A caller's own name for something, as a message shows it."""
    return name if len(name) <= 80 else f"{name[:77]}..."


def file_of(image: EncodedImage) -> bytes:
    """The bytes of the encoded file. Raises ImageError for bad base64."""
    return decode_base64(image.data) if isinstance(image.data, str) else image.data


def decoded_size_bound(text: str) -> int:
    """No more bytes than this come out of ``text``."""
    return (len(text) + 3) // 4 * 3


def decode_base64(text: str) -> bytes:
    """Base64 as Python's ``base64.b64decode`` takes it, which stock uses: what is not of its alphabet is skipped.

    A ``data:...;base64,`` prefix is taken off. Raises ImageError in the words of ``binascii``.
    """
    if text.startswith("data:") and (prefix := _DATA_URL.match(text)):
        text = text[prefix.end() :]
    try:
        content: bytes = pybase64.b64decode(text, validate=True)
    except ValueError:
        content = _decode_leniently(text)
    return content


def _decode_leniently(text: str) -> bytes:
    try:
        # Line breaks are the usual oddity; without them the fast decoder may do
        content: bytes = pybase64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
        return content
    except ValueError:
        pass
    try:
        return base64.b64decode(text.encode(errors="replace"))
    except ValueError as error:
        raise ImageError(str(error)) from None
