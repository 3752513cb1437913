"""The findings of a bench -> Markdown in the layout of PaddleClas's model pages, or JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from service import __version__
from service.ops.model import Model
from serving_models import complexity
from serving_models.latency import Findings, Missing, Subject
from serving_models.variants import VARIANTS, Variant

NOTHING = "-"
STATISTICS = {"median_ms": "Latency", "p99_ms": "Latency, 99th percentile"}


def command(findings: Findings) -> str:
    """What measures the same again."""
    plan = findings.plan
    words = ["python", "-m", "serving_models", "bench", *(subject.name for subject in plan.subjects)]
    words += ["--engine", ",".join(plan.engines), "--precision", ",".join(plan.precisions)]
    words += ["--batch", ",".join(map(str, plan.batches)), "--threads", str(plan.threads), "--device", str(plan.device)]
    words += ["--image-size", str(plan.image_size), "--resize-short", str(plan.resize_short)]
    words += ["--repeats", str(plan.repeats)] if plan.repeats else ["--seconds", f"{plan.seconds:g}"]
    return shlex.join(words)


def as_markdown(findings: Findings) -> str:
    """A table of medians and one of 99th percentiles for each engine, one of accuracy and size, and what they mean."""
    reasons = _numbered(findings.missing)
    lines = [f"`{command(findings)}`, {findings.day}{_machine(findings)}.", f"{_versions(findings)}."]
    for engine in findings.plan.engines:
        for statistic, title in STATISTICS.items():
            lines += ["", f"## {title}: engine {engine}, {findings.plan.device}, {_threads(findings)}", ""]
            lines += _latency_table(findings, engine, statistic, reasons)
    lines += ["", "## Accuracy, FLOPs and Parameters", "", *_accuracy_table(findings), "", *_notes(findings)]
    lines += [f"* [{number}] {reason}" for reason, number in reasons.items()]
    return "\n".join(lines)


def as_json(findings: Findings) -> str:
    """The same as one JSON object, with nothing rounded."""
    return json.dumps(
        {
            "command": command(findings),
            "date": findings.day.isoformat(),
            "machine": findings.machine,
            "versions": findings.versions,
            "load_average_before": findings.load,
            "threads": findings.plan.threads,
            "device": str(findings.plan.device),
            "models": [_facts(findings, subject) for subject in findings.plan.subjects],
            "figures": [asdict(figure) for figure in findings.figures],
            "missing": [asdict(missing) for missing in findings.missing],
            "interrupted": findings.interrupted,
        },
        indent=2,
        ensure_ascii=False,
    )


def _latency_table(findings: Findings, engine: str, statistic: str, reasons: dict[str, int]) -> Iterator[str]:
    plan = findings.plan
    columns = [(precision, batch) for precision in plan.precisions for batch in plan.batches]
    headings = [f"{precision.upper()}<br>Batch Size={batch}<br>(ms)" for precision, batch in columns]
    yield _row(["Models", "Crop Size", "Resize Short Size", *headings])
    yield _rule(2 + len(headings))
    for subject in plan.subjects:
        cells = [_cell(findings, subject.name, engine, *column, statistic, reasons) for column in columns]
        yield _row([_escaped(subject.name), *_sizes(findings, subject), *cells])


def _cell(
    findings: Findings, model: str, engine: str, precision: str, batch: int, statistic: str, reasons: dict[str, int]
) -> str:
    figure = findings.figure(model, engine, precision, batch)
    if figure is not None:
        return f"{getattr(figure, statistic):.2f}"
    missing = findings.why_missing(model, engine, precision)
    return NOTHING if missing is None else f"{NOTHING} [{reasons[_reason(missing)]}]"


def _accuracy_table(findings: Findings) -> Iterator[str]:
    yield _row(["Models", "Top1", "Top5", "FLOPs<br>(G)", "Params<br>(M)"])
    yield _rule(4)
    for subject in findings.plan.subjects:
        facts = _facts(findings, subject)
        accuracies = [NOTHING if facts[key] is None else f"{facts[key]:.4f}" for key in ("top1", "top5")]
        counts = [_count(facts[key]) for key in ("gflops", "mparams")]
        yield _row([_escaped(subject.name), *accuracies, *counts])


def _count(number: float | None) -> str:
    """Two decimals, and two digits of what would be 0.00."""
    if number is None:
        return NOTHING
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def _facts(findings: Findings, subject: Subject) -> dict[str, Any]:
    model = findings.models.get(subject.name)
    variant = VARIANTS.get(model.architecture if model else subject.name)
    published = variant if variant and subject.folder is None else None
    height, width, resize_short = _pixels(findings, subject)
    return {
        "name": subject.name,
        "weights": "random" if subject.folder is None else str(subject.folder),
        "crop_size": [height, width],
        "resize_short": resize_short,
        "top1": published.top1 if published else None,
        "top5": published.top5 if published else None,
        "gflops": _gflops(variant, model, height, width),
        "mparams": _mparams(variant, model),
    }


def _gflops(variant: Variant | None, model: Model | None, height: int | None, width: int | None) -> float | None:
    """As the architecture has them at the measured size; a side is all that the count takes."""
    if variant is None or height is None or height != width:
        return None
    return complexity.operations(variant, height, **_classes(model)) / 1e9


def _mparams(variant: Variant | None, model: Model | None) -> float | None:
    return complexity.parameters(variant, **_classes(model)) / 1e6 if variant else None


def _classes(model: Model | None) -> dict[str, int]:
    return {"classes": model.classes} if model else {}


def _pixels(findings: Findings, subject: Subject) -> tuple[int | None, int | None, int | None]:
    """Height, width and resized short side; None each where the model was not come to."""
    model, plan = findings.models.get(subject.name), findings.plan
    if model is not None:
        return model.height, model.width, model.resize_short
    return (plan.image_size, plan.image_size, plan.resize_short) if subject.folder is None else (None, None, None)


def _sizes(findings: Findings, subject: Subject) -> list[str]:
    height, width, resize_short = _pixels(findings, subject)
    if height is None:
        return [NOTHING, NOTHING]
    return [f"{height}" if height == width else f"{height}x{width}", f"{resize_short}"]


def _notes(findings: Findings) -> Iterator[str]:
    yield (
        f"Latency: milliseconds from a batch in memory to its scores in memory, over {_runs(findings)} of a batch: the"
        " median, and the 99th percentile (of fewer than 100 runs, the slowest). Decoding and preprocessing are not in"
        " it.\n"
    )
    random = [subject.name for subject in findings.plan.subjects if subject.folder is None]
    if random:
        yield (
            f"Random weights, which are enough to measure time: {', '.join(random)}. Top1 and Top5 are those that"
            " PaddleClas publishes for its own weights (its evaluation mostly at 256x256). They were not measured here;"
            " python -m serving_models evaluate measures a model's.\n"
        )
    yield "FLOPs and parameters are counted from the architecture as PaddleClas counts them, FLOPs at the crop size.\n"
    yield from _taken(findings)
    if findings.interrupted:
        yield "Interrupted: figures without a number and a reason were not measured.\n"


def _taken(findings: Findings) -> Iterator[str]:
    """Which engines auto took."""
    by_engine: dict[str, list[str]] = {}
    for figure in findings.figures:
        titles = by_engine.setdefault(figure.taken, []) if figure.engine == "auto" else []
        title = f"{figure.model} {figure.precision}"
        if title not in titles:
            titles.append(title)
    if by_engine:
        told = "; ".join(f"{engine} for {', '.join(titles)}" for engine, titles in by_engine.items())
        yield f"auto took {told}.\n"


def _runs(findings: Findings) -> str:
    runs = [figure.runs for figure in findings.figures]
    if not runs:
        return "no runs"
    few = "" if min(runs) == max(runs) else f"{min(runs)} to "
    return f"{few}{max(runs)} run{'s'[: max(runs) > 1]}"


def _machine(findings: Findings) -> str:
    if not findings.machine:
        return ""
    cores, cpu = findings.machine["cores"], findings.machine["cpu"]
    gpu = f" with {findings.machine['gpu']}" if findings.machine.get("gpu") else ""
    busy = f"load average of other work when it began: {findings.load:.1f}"
    return f", on {cores} core{'s'[: cores > 1]} of {cpu}{gpu}; {busy}"


def _versions(findings: Findings) -> str:
    versions = findings.versions or {"regnetx-serving": __version__}
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _threads(findings: Findings) -> str:
    threads = findings.plan.threads
    return f"{threads} thread{'s'[: threads > 1]}"


def _numbered(missing: list[Missing]) -> dict[str, int]:
    """Each reason once, numbered from 1."""
    return {reason: number for number, reason in enumerate(dict.fromkeys(map(_reason, missing)), start=1)}


def _reason(missing: Missing) -> str:
    what = " ".join(filter(None, (missing.engine, missing.precision)))
    return f"{what}: {missing.reason}" if what else missing.reason


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return f"|---|{'--:|' * numbers}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
