"""Models, engines, precisions and batch sizes -> milliseconds of a run, each measured in a process of its own."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from service.errors import ModelError, StartupError
from service.ops.model import Model, load_model
from serving_models.conversation import BrokenError, RefusedError, converse
from serving_models.download import official_name
from serving_models.engine_config import Device, engine_config
from serving_models.variants import VARIANTS


class Report(Protocol):
    """Hears how far a bench is."""

    def doing(self, text: str) -> None:
        """What is being done now."""

    def done(self, figures: int) -> None:
        """So many figures more are found, or known to be missing."""

    def line(self, text: str) -> None:
        """What came of one model, or of one engine and precision with it."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a serving model, or without a folder an official architecture with random weights."""

    name: str
    folder: Path | None = None


@dataclass(frozen=True)
class Plan:
    """All that was asked for; each combination of model, engine, precision and batch size is a figure."""

    subjects: list[Subject]
    engines: list[str]
    precisions: list[str]
    batches: list[int]
    device: Device
    threads: int
    image_size: int  # pixels, of official architectures; a serving model has its own
    resize_short: int
    seconds: float  # of one figure, at least
    repeats: int | None = None  # runs of one figure, instead

    @property
    def figures_of_a_model(self) -> int:
        """How many figures there are of one model."""
        return len(self.engines) * len(self.precisions) * len(self.batches)


class Combination(NamedTuple):
    """What was measured together, batch size after batch size."""

    model: str
    engine: str  # as asked for
    taken: str  # the engine that ran, where auto was asked for
    precision: str


@dataclass(frozen=True)
class Figure:
    """What was found for one batch size of a combination."""

    model: str
    engine: str
    taken: str
    precision: str
    batch: int
    runs: int
    median_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Missing:
    """Why figures are missing: of a model, or of one engine and precision with it those that were not yet found."""

    reason: str
    broke: bool  # it should have worked; otherwise this machine, engine or model cannot do it
    model: str
    engine: str | None = None
    precision: str | None = None


@dataclass
class Findings:
    """What was found so far, and on what."""

    plan: Plan
    load: float = field(default_factory=lambda: os.getloadavg()[0])  # of other work, when it began
    day: date = field(default_factory=date.today)
    models: dict[str, Model] = field(default_factory=dict)  # by the name of the subject
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether something broke, or nothing at all was found."""
        return any(missing.broke for missing in self.missing) or not self.figures

    def figure(self, model: str, engine: str, precision: str, batch: int) -> Figure | None:
        """That of one combination, where it was found."""
        wanted = (model, engine, precision, batch)
        return next((f for f in self.figures if (f.model, f.engine, f.precision, f.batch) == wanted), None)

    def why_missing(self, model: str, engine: str, precision: str) -> Missing | None:
        """Why figures of one combination are missing; None where nothing is, or none of it was begun."""
        of_it = [m for m in self.missing if m.model == model and m.engine in (None, engine)]
        return next((m for m in of_it if m.precision in (None, precision)), None)


def find(name: str, root: Path) -> Subject:
    """What a word names: an official name as it is written, a serving model, an official name in any case.

    Raises ModelError where it is none of them, or a folder that is no serving model.
    """
    if name in VARIANTS:
        return Subject(name)
    for folder in (Path(name), root / name):
        if name and os.path.exists(folder):
            load_model(folder)
            return Subject(name.rstrip("/"), folder)
    official = official_name(name)
    if official is None:
        raise ModelError(
            f"{name!r}: no model of that name in {root}, no path and no official model; accepted are a folder that "
            f"python -m serving_models export wrote, its name, and {', '.join(VARIANTS)}"
        )
    return Subject(official)


def bench(plan: Plan, report: Report) -> Findings:
    """Measure everything in turn. Ctrl-C ends it, with what was found until then; no file is left behind."""
    findings = Findings(plan)
    try:
        for subject in plan.subjects:
            _measure_model(subject, findings, report)
    except KeyboardInterrupt:
        findings.interrupted = True
    return findings


def _measure_model(subject: Subject, findings: Findings, report: Report) -> None:
    plan = findings.plan
    with TemporaryDirectory(prefix="regnetx-bench-") as scratch:
        try:
            folder = subject.folder or _export_random(subject.name, plan, scratch, report)
            findings.models[subject.name] = load_model(folder)
        except (RefusedError, BrokenError, StartupError) as error:
            findings.missing.append(Missing(str(error), True, subject.name))
            report.line(f"{subject.name}: {error}")
            report.done(plan.figures_of_a_model)
            return
        model = _Model(subject.name, folder, Path(scratch), findings, report)
        for engine, precision in product(plan.engines, plan.precisions):
            model.measure(engine, precision)


def _export_random(name: str, plan: Plan, scratch: str, report: Report) -> Path:
    order = {"name": name, "folder": scratch, "image_size": plan.image_size, "resize_short": plan.resize_short}
    return Path(_answer("folder", {"do": "export_random", **order}, name, report))


def _answer(key: str, order: dict[str, Any], title: str, report: Report) -> str:
    """The one answer with that key. Raises RefusedError, BrokenError."""
    with closing(converse(order)) as answers:
        for answer in answers:
            if key in answer:
                return str(answer[key])
            report.doing(f"{title}: {answer['doing']}")
    raise BrokenError("ended without an answer")


@dataclass(frozen=True)
class _Model:
    """A serving model, and where what is found of it goes."""

    name: str
    folder: Path
    scratch: Path
    findings: Findings
    report: Report

    def measure(self, engine: str, precision: str) -> None:
        """A figure for each batch size, or why it is missing."""
        plan, title, before = self.findings.plan, f"{self.name}, {engine} {precision}", len(self.findings.figures)
        try:
            taken = self._choose(precision, title) if engine == "auto" else engine
            order = {"batches": plan.batches, "seconds": plan.seconds, "repeats": plan.repeats}
            order |= {"do": "measure_batches", "config": self._config(taken, precision)}
            with closing(converse(order)) as answers:
                for answer in answers:
                    self._hear(answer, title, Combination(self.name, engine, taken, precision))
        except (RefusedError, BrokenError) as error:
            reason = str(error).replace(f"{self.scratch}/", "")  # a folder that is gone when it is read
            missing = Missing(reason, isinstance(error, BrokenError), self.name, engine, precision)
            self.findings.missing.append(missing)
            self.report.line(f"{title}: {reason}")
        found = self.findings.figures[before:]
        if found:
            self.report.line(f"{title}: {', '.join(f'{figure.median_ms:.2f}' for figure in found)} ms")
        self.report.done(len(plan.batches) - len(found))

    def _hear(self, answer: dict[str, Any], title: str, combination: Combination) -> None:
        if "machine" in answer:
            self.findings.machine, self.findings.versions = answer["machine"], answer["versions"]
        elif "doing" in answer:
            self.report.doing(f"{title}: {answer['doing']}")
        else:
            self.findings.figures.append(Figure(*combination, **answer))
            self.report.done(1)

    def _choose(self, precision: str, title: str) -> str:
        """The engine that auto takes here."""
        return _answer("engine", {"do": "choose", "config": self._config("auto", precision)}, title, self.report)

    def _config(self, engine: str, precision: str) -> str:
        """As JSON, for the other process."""
        plan = self.findings.plan
        config = engine_config(
            self.folder,
            engine=engine,
            precision=precision,
            device=plan.device,
            threads=plan.threads,
            batch_size=max(plan.batches),
            engine_cache=str(self.scratch),
        )
        return config.model_dump_json(by_alias=True)
