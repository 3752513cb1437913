"""The texts of an answer -> ranked predictions."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from regnetx_client.errors import ProtocolError

LONGEST_LABEL = 16384  # characters as Python prints it; a bound for the memory of matching it
_ELEMENT = re.compile(
    rf"""\s*('(?:[^'\\\n]|\\.){{0,{LONGEST_LABEL}}}'|"(?:[^"\\\n]|\\.){{0,{LONGEST_LABEL}}}")\s*(?:,|$)"""
)


@dataclass(frozen=True)
class Prediction:
    """One class of the model and its probability, 0 to 1.

    ``class_id`` is None from a server that does not tell it (Paddle Serving's own).
    """

    label: str
    prob: float
    class_id: int | None = None


def ranked(values: dict[str, str], count: int) -> list[list[Prediction]]:
    """The predictions of ``count`` images, best first.

    From ``top_k`` where the server knows it, otherwise the top-1 of ``label`` and ``prob``. Raises ProtocolError.
    """
    rows = _every(values["top_k"]) if "top_k" in values else _best(values, count)
    if len(rows) != count or not all(rows):
        raise ProtocolError(f"{len(rows)} results for {count} images in the answer")
    return rows


def _every(text: str) -> list[list[Prediction]]:
    """``top_k``: JSON, a list per image of ``{"class_id": int, "label": str, "prob": float}``."""
    try:
        return [[_prediction(fields) for fields in row] for row in json.loads(text)]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"top_k is no list of predictions: {excerpt(text)}") from error


def _prediction(fields: dict[str, Any]) -> Prediction:
    return Prediction(str(fields["label"]), float(fields["prob"]), int(fields["class_id"]))


def _best(values: dict[str, str], count: int) -> list[list[Prediction]]:
    missing = {"label", "prob"} - set(values)
    if missing:
        raise ProtocolError(f"no {' and no '.join(sorted(missing))} in the answer, only {sorted(values)}")
    labels, probs = _labels(values["label"], count), _probs(values["prob"], count)
    if len(labels) != len(probs):
        raise ProtocolError(f"{len(labels)} labels but {len(probs)} probabilities in the answer")
    return [[Prediction(label, prob)] for label, prob in zip(labels, probs)]


def _labels(text: str, count: int) -> list[str]:
    """``label``: Python's ``str`` of a list of ``str``, so either quote may stand around each; at most one too many.

    Read piece by piece: Python's own parser takes up to 500 times the memory of a hostile text.
    """
    fault = f"label is no list of strings: {excerpt(text)}"
    inside = _inside(text, fault)
    labels: list[str] = []
    position = 0
    while position < len(inside) and len(labels) <= count:
        element = _ELEMENT.match(inside, position)
        if element is None:
            raise ProtocolError(fault)
        labels.append(_unquoted(element[1], fault))
        position = element.end()
    return labels


def _unquoted(literal: str, fault: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError, MemoryError) as error:
        raise ProtocolError(fault) from error


def _probs(text: str, count: int) -> list[float]:
    """``prob``: Python's ``str`` of a list of floats; ``nan`` and ``inf`` are no literals, but ``float`` reads them."""
    fault = f"prob is no list of numbers: {excerpt(text)}"
    numbers = _inside(text, fault).split(",", count + 1)[: count + 1]
    try:
        return [float(number) for number in numbers if number.strip()]
    except ValueError as error:
        raise ProtocolError(fault) from error


def _inside(text: str, fault: str) -> str:
    """What stands between the brackets of a list."""
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        raise ProtocolError(fault)
    return inside[1:-1].strip()


def excerpt(text: str, most: int = 120) -> str:
    """The start of a foreign text, quoted, for a message."""
    return repr(text if len(text) <= most else text[:most] + "...")
