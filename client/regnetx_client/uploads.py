"""How images travel: as base64 text, which every server reads, or as they are, a quarter less, where it says so."""

from __future__ import annotations

import time

UPLOADS = ("auto", "base64", "binary")
_REFUSED = 30.0  # seconds; behind one address there may be servers of both kinds while one version replaces another


class Forms:
    """What is known of one server, or of all those behind one address. Threads may share it."""

    def __init__(self) -> None:
        self._takes_bytes = False
        self._not_before = 0.0  # on the monotonic clock

    @property
    def takes_bytes(self) -> bool:
        """Whether it has said so, and has not refused them in the last 30 s."""
        return self._takes_bytes and time.monotonic() >= self._not_before

    def offered(self) -> None:
        """It has said that it takes images as they are."""
        self._takes_bytes = True

    def refused(self) -> None:
        """It could not read an image that was sent as it is."""
        self._takes_bytes = False
        self._not_before = time.monotonic() + _REFUSED


class Uploads:
    """How one client sends images: as it was told to, or as each server says that it may."""

    def __init__(self, upload: str) -> None:
        if upload not in UPLOADS:
            raise ValueError(f"upload {upload!r} is not auto, base64 or binary")
        self._upload = upload

    def binary(self, forms: Forms) -> bool:
        """Whether the next request to that server holds the images as they are."""
        return forms.takes_bytes if self._upload == "auto" else self._upload == "binary"

    def again(self, forms: Forms, *, binary: bool, offered: bool, unread: bool) -> bool:
        """Learns from an answer, and says whether base64 has to be sent to the same server after all.

        That is so for an ``unread`` request alone: one that no server which takes bytes can have answered
        (``offered``), so that nothing has been computed for it.
        """
        if offered:
            forms.offered()
        if self._upload != "auto" or not binary or offered or not unread:
            return False
        forms.refused()
        return True
