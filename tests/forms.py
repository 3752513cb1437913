"""multipart/form-data written by hand, so that it can be written wrongly."""

from __future__ import annotations

BOUNDARY = "x-boundary-x"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(file, name="image", filename="a.jpg", *, disposition=None, headers=()):
    """One part; ``filename`` None leaves it out, ``disposition`` replaces the whole header."""
    if disposition is None:
        disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    lines = [f"Content-Disposition: {disposition}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + file


def form(*parts):
    """The body of a form of these parts."""
    delimiter = b"--" + BOUNDARY.encode()
    return b"".join(delimiter + b"\r\n" + one + b"\r\n" for one in parts) + delimiter + b"--\r\n"
