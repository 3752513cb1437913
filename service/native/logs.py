"""Log records -> lines on standard error, as text or as JSON, the same for every process of the service."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson

from service.config import Native

TEXT = "%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
FIELDS = "fields"  # the attribute of a record that holds what JSON says one by one


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, process, message, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up_logging(native: Native | None = None) -> None:
    """Log as ``native.log_format`` and ``native.log_level`` say; may be called again once they are known."""
    native = native or Native()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if native.log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=native.log_level.upper(), handlers=[handler], force=True)
