"""Log records -> lines on standard error, as text or as JSON, the same for every process of the service."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson

from service.config import Native
from service.native.output import Output, unblock

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


class OutputHandler(logging.Handler):
    """Writes a record as a line; where lines are lost because nobody reads them, one says how many."""

    def __init__(self, output: Output, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._output = output
        output.tell_loss = self._line_of_loss

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits."""
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
        else:
            self._output.write(line)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _line_of_loss(self, lines: int) -> bytes:
        text = "%d lines of this process were lost, because standard error did not take them"
        record = logging.LogRecord("regnetx.logs", logging.WARNING, __file__, 0, text, (lines,), None)
        setattr(record, FIELDS, {"lost": lines})
        return self._line(record)


def set_up_logging(native: Native | None = None) -> None:
    """Log as ``native.log_format`` and ``native.log_level`` say; may be called again once they are known."""
    native = native or Native()
    output = unblock("stderr")
    formatter = JsonFormatter() if native.log_format == "json" else logging.Formatter(TEXT)
    handler = OutputHandler(output, formatter) if output else logging.NullHandler()
    logging.basicConfig(level=native.log_level.upper(), handlers=[handler], force=True)
