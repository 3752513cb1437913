"""A request that has ended -> one line of the log; never anything of what it held."""

from __future__ import annotations

import logging
import re
import secrets

from service.native.logs import FIELDS

log = logging.getLogger("regnetx.access")

# What callers may choose goes into logs and headers as it is
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_STATIONS = ("read", "queue", "decode", "preprocess", "engine", "label")


class Times:
    """Seconds that a request spent at each station; of several images, those of the one that took longest there."""

    __slots__ = (*_STATIONS, "stays")

    def __init__(self) -> None:
        self.read = self.queue = self.decode = self.preprocess = self.engine = self.label = 0.0
        # Of a request that is traced, by stage: when its first image came and its last one left
        self.stays: dict[str, tuple[float, float]] | None = None

    def of_image(self, queue: float, decode: float, preprocess: float) -> None:
        """An image is in its slot."""
        self.queue = max(self.queue, queue)
        self.decode = max(self.decode, decode)
        self.preprocess = max(self.preprocess, preprocess)

    def stayed(self, stage: str, came: float, left: float) -> None:
        """An image, or the request, was in a stage of the metrics; both in seconds of ``time.perf_counter``."""
        if self.stays is not None:
            first, last = self.stays.get(stage, (came, left))
            self.stays[stage] = min(first, came), max(last, left)

    def milliseconds(self) -> dict[str, float]:
        """By station, to a hundredth."""
        return {station: round(getattr(self, station) * 1e3, 2) for station in _STATIONS}

    def server_timing(self, total: float) -> str:
        """The value of a ``Server-Timing`` header (W3C Server Timing). ``total``: seconds."""
        stations = {**self.milliseconds(), "total": round(total * 1e3, 2)}
        return ", ".join(f"{name};dur={duration}" for name, duration in stations.items())


def request_id_of(given: str | None, *, needed: bool) -> str | None:
    """The caller's id if it is one, else a new one where one is needed."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(8) if needed else None


def write_line(fields: dict[str, object]) -> None:
    """Say that a request has ended; ``fields`` in their order."""
    if log.isEnabledFor(logging.INFO):
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        log.info("request %s", text, extra={FIELDS: fields})
