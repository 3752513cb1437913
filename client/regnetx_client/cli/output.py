"""Results -> a table for eyes; tabs, CSV or JSON for programs."""

from __future__ import annotations

import csv
import json
import math
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Callable, TextIO

from regnetx_client.predictions import Prediction

COLUMNS = ("image", "rank", "class_id", "label", "prob")
# What would break a line of tab-separated values apart, as it is written in most languages.
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


@dataclass(frozen=True)
class Result:
    """The predictions of one image, best first, or the error it met."""

    image: str
    predictions: tuple[Prediction, ...] = ()
    error: Exception | None = None

    @property
    def failure(self) -> str:
        """The error in words; an OSError without the path, which stands beside it."""
        return getattr(self.error, "strerror", None) or str(self.error)


Write = Callable[[Result], None]


def writer(form: str | None, files: Sequence[str], stream: TextIO) -> Write:
    """Writes one result a call, and at once what must stand above them all."""
    if form == "json":
        return lambda result: _json(result, stream)
    if form == "csv":
        _csv([COLUMNS], stream)
        return lambda result: _csv(_rows(result), stream)
    if stream.isatty():
        return _table(files, stream)
    return lambda result: _tabs(result, stream)


def _rows(result: Result) -> list[tuple[str, ...]]:
    return [
        (result.image, str(rank), "" if best.class_id is None else str(best.class_id), best.label, repr(best.prob))
        for rank, best in enumerate(result.predictions, start=1)
    ]


def _csv(rows: Iterable[tuple[str, ...]], stream: TextIO) -> None:
    csv.writer(stream, lineterminator="\n").writerows(rows)
    stream.flush()


def _json(result: Result, stream: TextIO) -> None:
    fields: dict[str, object] = {"image": result.image}
    if result.error is not None:
        fields["error"] = result.failure
    else:
        fields["predictions"] = [_fields(prediction) for prediction in result.predictions]
    print(json.dumps(fields), file=stream, flush=True)


def _fields(prediction: Prediction) -> dict[str, object]:
    # JSON has no NaN.
    prob = prediction.prob if math.isfinite(prediction.prob) else None
    return {"class_id": prediction.class_id, "label": prediction.label, "prob": prob}


def _tabs(result: Result, stream: TextIO) -> None:
    for row in _rows(result):
        print("\t".join(cell.translate(_ESCAPES) for cell in row), file=stream, flush=True)


def _table(files: Sequence[str], stream: TextIO) -> Write:
    """Rows appear one by one, so the columns are fixed before the first: the names are known, the label comes last."""
    columns = shutil.get_terminal_size().columns
    image = min(max([_width(_plain(file)) for file in files] + [5]), max(columns // 2, 5))

    def line(name: str, prob: str, label: str) -> None:
        print(_cut(f"{_pad(_shortened(_plain(name), image), image)}  {prob:>6}  {_plain(label)}", columns), file=stream)

    def write(result: Result) -> None:
        if result.error is not None:
            line(result.image, "", f"failed: {result.failure}")
        for rank, best in enumerate(result.predictions):
            line("" if rank else result.image, f"{best.prob:.4f}", best.label)
        stream.flush()

    line("IMAGE", "PROB", "LABEL")
    return write


def _plain(text: str) -> str:
    """Without what would move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _width(text: str) -> int:
    """Cells of a terminal: East Asian wide letters take two, combining marks none."""
    return sum(_cells(letter) for letter in text)


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _cut(text: str, width: int) -> str:
    while _width(text) > width:
        text = text[:-1]
    return text


def _shortened(text: str, width: int) -> str:
    """The end of a path says more than its start."""
    if _width(text) <= width:
        return text
    while _width(text) > width - 3:
        text = text[1:]
    return f"...{text}"
