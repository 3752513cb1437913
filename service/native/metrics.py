"""Every metric of the service: name, help, labels and buckets, and where its cells lie in the block of a process.

Frontends and engines write cells, the supervisor reads them; this file is what they agree on. A cell is one float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import product


class Kind(Enum):
    """What a family counts with."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Door(StrEnum):
    """Where a request came in."""

    HTTP = "http"
    GRPC = "grpc"


class Outcome(StrEnum):
    """How a request ended; ``service.native.request_meter`` says which error is which."""

    ANSWERED = "answered"
    UNAUTHENTICATED = "unauthenticated"
    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNKNOWN_SERVICE = "unknown_service"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    BAD_IMAGE = "bad_image"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OP_TIMEOUT = "op_timeout"
    ENGINE_FAILED = "engine_failed"
    INTERNAL_ERROR = "internal_error"
    CALLER_LEFT = "caller_left"


class Stage(StrEnum):
    """A station of a request (read, label) or of each of its images (the others)."""

    READ = "read"  # head to parsed request, with the time that the caller takes to send its body
    QUEUE = "queue"  # until a decode thread is free
    DECODE = "decode"  # base64 and image file
    PREPROCESS = "preprocess"
    WAIT = "wait"  # until the run of the batch begins
    INFER = "infer"  # the run of the batch
    LABEL = "label"  # scores to ranked labels


class Format(StrEnum):
    """The format of an image that was decoded."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    BMP = "bmp"
    GIF = "gif"


@dataclass(frozen=True)
class Family:
    """One metric with all its label values, known beforehand: their number is fixed, whatever callers send."""

    kind: Kind
    name: str
    help: str
    labels: tuple[tuple[str, type[StrEnum]], ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds; +Inf follows

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in order."""
        return [name for name, _ in self.labels]

    @property
    def cells_of_one(self) -> int:
        """Cells of one series: a value, or a count for each bucket and for +Inf, and then the sum."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1

    def series(self) -> Iterator[tuple[str, ...]]:
        """All combinations of label values."""
        return product(*(values for _, values in self.labels))


MILLISECONDS_TO_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
POWERS_OF_TWO = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

REQUESTS = Family(
    Kind.COUNTER, "regnetx_requests", "Requests that ended, by door and outcome.",
    (("door", Door), ("outcome", Outcome)),
)  # fmt: skip
REQUEST_SECONDS = Family(
    Kind.HISTOGRAM, "regnetx_request_seconds", "Time from the head of a request to its answer; answered requests.",
    (("door", Door),), (*MILLISECONDS_TO_SECONDS, 30.0),
)  # fmt: skip
REQUESTS_IN_FLIGHT = Family(
    Kind.GAUGE, "regnetx_requests_in_flight", "Requests that have begun and not ended.", (("door", Door),)
)
STAGE_SECONDS = Family(
    Kind.HISTOGRAM, "regnetx_stage_seconds", "Time in one station: read and label for a request, others for an image.",
    (("stage", Stage),), (0.0001, 0.00025, 0.0005, *MILLISECONDS_TO_SECONDS),
)  # fmt: skip
IMAGES = Family(Kind.COUNTER, "regnetx_images", "Images that were decoded, by format.", (("format", Format),))
BATCH_SIZE = Family(Kind.HISTOGRAM, "regnetx_batch_size", "Images in one run of the model.", (), POWERS_OF_TWO)
SLOTS_IN_USE = Family(Kind.GAUGE, "regnetx_slots_in_use", "Slots that belong to a request now.")
SUBMITTED_IMAGES = Family(Kind.GAUGE, "submitted_images", "Images that an engine owes an answer for.")
RUNNING_IMAGES = Family(Kind.GAUGE, "running_images", "Images in the run that an engine is at.")
CERTIFICATE_EXPIRY = Family(
    Kind.GAUGE, "regnetx_tls_certificate_expiry_timestamp_seconds",
    "When the certificate in force expires; of frontends that differ, the first. No series without TLS.",
)  # fmt: skip

SHOWN = (REQUESTS, REQUEST_SECONDS, REQUESTS_IN_FLIGHT, STAGE_SECONDS, IMAGES, BATCH_SIZE, SLOTS_IN_USE)
# What is not shown is not summed: the first two are read for their difference, the last for its least.
ALL = (*SHOWN, SUBMITTED_IMAGES, RUNNING_IMAGES, CERTIFICATE_EXPIRY)


class Vital(Enum):
    """A cell that says how its process is."""

    BEAT = 0  # seconds of CLOCK_MONOTONIC, of the last turn of its loop
    RUN_BEGAN = 1  # seconds of CLOCK_MONOTONIC; 0: not in a run of the model
    PATIENCE = 2  # seconds that a run may take before it counts as stuck
    STATE = 3  # of a frontend: a Readiness


def _layout() -> tuple[dict[tuple[str, tuple[str, ...]], int], int]:
    cells, end = {}, len(Vital)
    for family in ALL:
        for labels in family.series():
            cells[family.name, labels] = end
            end += family.cells_of_one
    return cells, end


_CELLS, CELLS = _layout()


def cell_of(family: Family, labels: tuple[str, ...] = ()) -> int:
    """The number of the first cell of a series. Raises KeyError for labels that the family does not have."""
    return _CELLS[family.name, labels]
