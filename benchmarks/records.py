"""What was measured, a JSON line each: kept while measuring goes on, so that a run that is cut short leaves a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Block = tuple[int, str, str, str]  # round, model, image, subject: what is measured in one go
BLOCK = ("round", "model", "image", "subject")
CELL = (*BLOCK, "door", "concurrency", "share")


def read(file: Path) -> list[Record]:
    """All records; of those of the same cell the last. A last line that was cut off is left out."""
    found: dict[tuple[Any, ...], Record] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[tuple(record.get(key) for key in CELL)] = record
    return list(found.values())


def finished(records: Iterable[Record]) -> set[Block]:
    """The blocks that came to their end."""
    return {block_of(record) for record in records if record.get("finished")}


def block_of(record: Record) -> Block:
    round_, model, image, subject = (record[key] for key in BLOCK)
    return round_, model, image, subject


def append(file: Path, record: Record) -> None:
    """One line, on disk when this returns."""
    with file.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
