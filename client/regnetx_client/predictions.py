"""The texts of an answer -> ranked predictions."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

from regnetx_client.errors import ProtocolError


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
    rows = _every(values["top_k"]) if "top_k" in values else _best(values)
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


def _best(values: dict[str, str]) -> list[list[Prediction]]:
    missing = {"label", "prob"} - set(values)
    if missing:
        raise ProtocolError(f"no {' and no '.join(sorted(missing))} in the answer, only {sorted(values)}")
    labels, probs = _labels(values["label"]), _probs(values["prob"])
    if len(labels) != len(probs):
        raise ProtocolError(f"{len(labels)} labels but {len(probs)} probabilities in the answer")
    return [[Prediction(label, prob)] for label, prob in zip(labels, probs)]


def _labels(text: str) -> list[str]:
    """``label``: Python's ``str`` of a list of ``str``, so either quote may stand around each."""
    try:
        labels = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ProtocolError(f"label is no list of strings: {excerpt(text)}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ProtocolError(f"label is no list of strings: {excerpt(text)}")
    return labels


def _probs(text: str) -> list[float]:
    """``prob``: Python's ``str`` of a list of floats; ``nan`` and ``inf`` are no literals, but ``float`` reads them."""
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        raise ProtocolError(f"prob is no list of numbers: {excerpt(text)}")
    try:
        return [float(number) for number in inside[1:-1].split(",") if number.strip()]
    except ValueError as error:
        raise ProtocolError(f"prob is no list of numbers: {excerpt(text)}") from error


def excerpt(text: str, most: int = 120) -> str:
    """The start of a foreign text, quoted, for a message."""
    return repr(text if len(text) <= most else text[:most] + "...")
