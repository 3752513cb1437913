"""model.yml -> typed values; what does not fit is refused with file, key, value and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NoReturn, TypeVar

import yaml

from service.errors import ModelError, short, shown

Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class Facts:
    """One mapping of the file. Every reader raises ModelError for a value that is missing or of another type."""

    file: Path
    values: Mapping[object, object]
    prefix: str = ""

    def section(self, key: str) -> Facts:
        value = self._get(key)
        if not isinstance(value, dict):
            self.refuse(key, "a mapping")
        return Facts(self.file, value, f"{self.prefix}{key}.")

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            self.refuse(key, "text")
        return value

    def choice(self, key: str, accepted: str) -> None:
        if self._get(key) != accepted:
            self.refuse(key, accepted)

    def positive(self, key: str) -> float:
        value = _number(self._get(key))
        if value is None or value <= 0:
            self.refuse(key, "a number above 0")
        return value

    def whole(self, key: str) -> int:
        value = _whole(self._get(key))
        if value is None:
            self.refuse(key, "a whole number from 1")
        return value

    def count(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.refuse(key, "a whole number from 0")
        return value

    def not_negative(self, key: str) -> float:
        value = _number(self._get(key))
        if value is None or value < 0:
            self.refuse(key, "a number from 0")
        return value

    def three_wholes(self, key: str) -> tuple[int, int, int]:
        return self._three(key, _whole, "a list of three whole numbers from 1")

    def three_numbers(self, key: str) -> tuple[float, float, float]:
        return self._three(key, _number, "a list of three numbers")

    def _three(self, key: str, read: Callable[[object], Value | None], accepted: str) -> tuple[Value, Value, Value]:
        found = self._get(key)
        values = [read(item) for item in found] if isinstance(found, list) else []
        first, second, third = values if len(values) == 3 else (None, None, None)
        if first is None or second is None or third is None:
            self.refuse(key, accepted)
        return first, second, third

    def refuse(self, key: str, accepted: str) -> NoReturn:
        """Raises the ModelError for the value of ``key``."""
        raise ModelError(f"{self.file}: {self.prefix}{key} is {shown(self.values[key])}, accepted: {accepted}")

    def _get(self, key: str) -> object:
        if key not in self.values:
            raise ModelError(f"{self.file}: {self.prefix}{key} is missing")
        return self.values[key]


def read_facts(file: Path) -> Facts:
    """The mapping of a YAML file. Raises ModelError: unreadable, not UTF-8, not YAML, not a mapping."""
    try:
        values = yaml.safe_load(read_text(file))
    # PyYAML lets through what its constructors stumble over, as at the date 2001-13-45.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ModelError(f"{file}: not YAML: {short(' '.join(str(error).split()))}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file}: {type(values).__name__} at the top, accepted: a mapping")
    return Facts(file, values)


def read_text(file: Path) -> str:
    """The UTF-8 text of a file of the serving model. Raises ModelError where there is none."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}") from error


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
