"""``grpc.health.v1``: Check, Watch and List."""

import logging
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2


class GrpcHealth(health.aio.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """The library's, which answers List with a traceback in the log."""

    def __init__(self) -> None:
        """Knows of no service, but of the server as such."""
        super().__init__()
        self._told: dict[str, int] = {}

    async def set(self, service: str, status: int) -> None:
        """What Check and List answer and Watch tells, of a service, from now on."""
        self._told[service] = status
        await super().set(service, status)

    async def List(self, _request: object, _context: object) -> Any:
        """All that are known."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._told.items()}
        return health_pb2.HealthListResponse(statuses=statuses)


def keep_garbage_out_of_the_log() -> None:
    """To health and reflection anybody may send bytes that are no message; the library logs a traceback for each."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_ours)


def _is_of_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is not None and issubclass(record.exc_info[0], DecodeError))
