"""The model of a running service, as the supervisor hands it to the processes that it starts and starts again.

Files may be replaced or deleted while a service runs. A process that looked at them anew would take another model than
the others have: new weights behind old labels. So the facts travel in shared memory, and an engine refuses files that
are not those which were noted.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter

from service.config import Config
from service.errors import ModelError
from service.native.shared_memory import anonymous, needed_for
from service.ops.content import sha256_of, stamp_of
from service.ops.int8 import INT8_FILE, RECORD_FILE
from service.ops.model import Model, onnx_file

FACTS = TypeAdapter(Model)
REMEDY = "put it back, or let the service reload the model"
Note = list[tuple[str, list[int], str]]  # file, its Stamp or nothing where that proves nothing yet, its SHA-256; JSON


def share_model(model: Model) -> int:
    """A descriptor of the facts, for any number of processes; labels of many classes fit into no message."""
    facts = FACTS.dump_json(model)
    with needed_for("the facts of the model", len(facts)):
        descriptor = anonymous("model", len(facts))
        os.pwrite(descriptor, facts, 0)
    return descriptor


def shared_model(descriptor: int) -> Model:
    """What ``share_model`` has put there."""
    return FACTS.validate_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0))


def note_files(config: Config, model: Model) -> Note:
    """The files that the engine in force reads, as they are now. Raises ModelError where one cannot be read."""
    note: Note = []
    for file in _read_by_engine(config, model):
        stamp = stamp_of(file)
        sha256 = sha256_of(file)
        proves = stamp.is_settled and stamp_of(file) == stamp
        note.append((str(file), list(stamp) if proves else [], sha256))
    return note


def require_noted(note: Iterable[tuple[str, list[int], str]]) -> None:
    """Raises ModelError where a file is not there or is not what was noted. Before and after a library has read it.

    A file is read only where its stamp differs, as after it was put back from a copy.
    """
    for name, stamp, sha256 in note:
        file = Path(name)
        try:
            found = stamp_of(file)
            if list(found) == stamp:
                continue
            same = sha256_of(file) == sha256
        except ModelError as error:
            raise ModelError(f"{error}; the service runs with that file, {REMEDY}") from None
        if not same:
            raise ModelError(f"{file}: is not the file that the service runs with, whose SHA-256 is {sha256}; {REMEDY}")


def _read_by_engine(config: Config, model: Model) -> Iterator[Path]:
    if config.native.engine == "paddle":
        yield model.program
        yield model.params
        return
    onnx = onnx_file(model, engine=config.native.engine)
    yield onnx
    if config.regnet.local_service_conf.precision == "int8":
        yield from (onnx.parent / INT8_FILE, onnx.parent / RECORD_FILE)
