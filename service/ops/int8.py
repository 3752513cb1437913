"""The int8 form of a serving model, and what was recorded when it was made: no other precision under its name."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigError, ModelError
from service.ops.content import sha256_of
from service.ops.facts import Facts, read_facts
from service.ops.model import Model, expected_sha256, onnx_file

INT8_FILE = "inference.int8.onnx"
RECORD_FILE = "inference.int8.yml"
PRECISION = "op.*.local_service_conf.precision: int8"


@dataclass(frozen=True)
class Agreement:
    """How one engine's int8 answers compare with its own in float32, on images that nothing was calibrated with."""

    images: int
    same: int  # images whose best class is the same
    max_abs_diff: float  # of scores
    random_max_abs_diff: float  # of scores of normalised noise, which service.engines.measure runs too

    def __str__(self) -> str:
        share = f"{self.same / self.images:.2%}"
        same = f"{self.same} of {self.images} images ({share}) answered as in fp32"
        return f"{same}, scores differ by {self.max_abs_diff:.2g} at most"


@dataclass(frozen=True)
class Int8:
    """A quantised model that is whole and was made from the model's own ONNX file."""

    file: Path  # serving_server/inference.int8.onnx
    sha256: str
    agreements: dict[str, Agreement]  # by engine

    def of(self, engine: str) -> Agreement:
        """What was measured with an engine. Raises ConfigError where nothing was."""
        if engine not in self.agreements:
            raise ConfigError(
                f"{PRECISION}, but {self.file} was not compared with float32 on native.engine: {engine}; accepted:"
                f" {', '.join(self.agreements)}, or where that engine is installed {command(self.file.parent)}"
            )
        return self.agreements[engine]


def load_int8(model: Model) -> Int8:
    """The quantised form of a model.

    Raises ConfigError, with the command that makes it, where it is missing, damaged, or was made from another ONNX
    file than the model has; ModelError where the model has no ONNX file.
    """
    folder = onnx_file(model, engine="onnxruntime").parent
    file, record = folder / INT8_FILE, folder / RECORD_FILE
    for one in (file, record):
        if not one.is_file():
            raise _refusal(f"but there is no {one}", folder)
    try:
        facts = read_facts(record)
        sha256, agreements = facts.section("sha256"), _agreements(facts.section("agreement"))
        made, source = sha256.text("int8").lower(), sha256.text("onnx").lower()
        expected = expected_sha256(model)
        if expected is None or expected.text("onnx").lower() != source:
            raise _refusal(f"but {file} was made from another ONNX file than the model's", folder)
        if sha256_of(file) != made:
            raise _refusal(f"but {file} is damaged: its SHA-256 is not the one in {record.name}", folder)
    except ModelError as error:
        raise _refusal(f"but {error}", folder) from None
    return Int8(file, made, agreements)


def command(folder: Path) -> str:
    """What makes the int8 form of the model whose ``serving_server`` is ``folder``."""
    return f"python -m serving_models quantize {shlex.quote(str(folder.parent))} --images FOLDER"


def _agreements(engines: Facts) -> dict[str, Agreement]:
    found = {}
    for engine in engines.values:
        one = engines.section(str(engine))
        found[str(engine)] = Agreement(
            images=one.whole("images"),
            same=one.count("same"),
            max_abs_diff=one.not_negative("max_abs_diff"),
            random_max_abs_diff=one.not_negative("random_max_abs_diff"),
        )
        if found[str(engine)].same > found[str(engine)].images:
            one.refuse("same", f"at most images, {found[str(engine)].images}")
    return found


def _refusal(why: str, folder: Path) -> ConfigError:
    return ConfigError(f"{PRECISION}, {why}; accepted: fp32, or make it with {command(folder)}")
