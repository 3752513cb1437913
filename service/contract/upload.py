"""An HTTP body and its Content-Type -> the request it is: JSON as stock takes it, an image file, or a form of files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from service.contract.encoded_image import EncodedImage
from service.contract.form import read_form
from service.contract.gateway import Route
from service.contract.request import PipelineRequest, Upload, parse_body
from service.errors import UnsupportedMediaTypeError

FILE = "application/octet-stream"
FORM = "multipart/form-data"
# The registered names, with those that browsers, libraries and operating systems have used beside them
_IMAGES = {
    "image/jpeg": ("image/jpg", "image/pjpeg"),
    "image/png": ("image/x-png", "image/apng"),
    "image/webp": ("image/x-webp",),
    "image/bmp": ("image/x-bmp", "image/x-ms-bmp", "image/x-windows-bmp"),
    "image/gif": (),
}
_ACCEPTED = (*_IMAGES, FILE, FORM)
_TAKEN = {*_ACCEPTED, "image/*", *(other for others in _IMAGES.values() for other in others)}
# What the W3C's Linked Data Platform (7.1.2) has a server say of the media types that it takes
ACCEPT_POST = (b"accept-post", ", ".join(("application/json", *_ACCEPTED)).encode())
_JSON_OBJECT = re.compile(rb"[ \t\r\n]*\{")


def is_upload(content_type: bytes) -> bool:
    """Whether a body of this Content-Type holds files; the stock gateway takes every type for JSON."""
    media = _media_type(content_type)
    return media.startswith("image/") or media in (FILE, FORM)


def read_body(body: bytes, route: Route, headers: Mapping[bytes, bytes]) -> PipelineRequest | Upload:
    """The request in a body. One that begins as a JSON object is JSON whatever its Content-Type says, as to stock.

    Raises MalformedRequestError; UnsupportedMediaTypeError for images of other types and for compressed bodies.
    """
    content_type = headers.get(b"content-type", b"")
    if not is_upload(content_type) or _JSON_OBJECT.match(body):
        return parse_body(body, route)
    media = _media_type(content_type)
    if media not in _TAKEN:
        raise UnsupportedMediaTypeError(f"Content-Type {media[:80]!r} is not taken (accepted: {', '.join(_ACCEPTED)})")
    coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaTypeError(f"Content-Encoding {coding[:80]!r} is not taken (accepted: identity)")
    if media == FORM:
        return Upload(read_form(body, content_type.decode("latin-1")), route.name, route.method)
    return Upload((EncodedImage("image", body, is_base64=False),), route.name, route.method)


def _media_type(content_type: bytes) -> str:
    return content_type.partition(b";")[0].decode("latin-1").strip().lower()
