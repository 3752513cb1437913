"""``python -m serving_models bench`` and ``evaluate``: their options, progress, output and exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.errors import ConfigError, ModelError
from serving_models.numbers import real, whole

if TYPE_CHECKING:
    from service.config import Config
    from serving_models.evaluate import Evaluation
    from serving_models.latency import Plan

FAILED, INTERRUPTED = 1, 130
MOST_IMAGES_OF_A_RUN = 1024
MOST_THREADS = 256
MOST_PIXELS = 4096
MOST_RUNS = 10**6
MOST_SECONDS = 3600.0

Command = Callable[[argparse.Namespace], int]


def add_bench(commands: Any, *, command: Command, root: Path) -> None:
    """Add it to the subparsers of the command line; ``root``: where models are if nothing else is said."""
    bench = commands.add_parser(
        "bench",
        help="measure the latency of models on this device",
        description="Measure the latency of models on this device and print the tables of PaddleClas's model pages. "
        "Official models are measured with random weights, nothing is downloaded.",
    )
    bench.add_argument(
        "models", nargs="*", metavar="MODEL", help="an official name, or a serving model's folder or name"
    )
    bench.add_argument("--all", action="store_true", help="the twelve official models")
    _add_common(bench, command=command, root=root, several=True)
    bench.add_argument("--batch", type=_batches, default=[1, 4, 8], metavar="N,...", help="batch sizes; default: 1,4,8")
    bench.add_argument(
        "--image-size", type=whole(1, MOST_PIXELS), default=224, metavar="N", help="crop of official models"
    )
    bench.add_argument("--resize-short", type=whole(1, MOST_PIXELS), default=256, metavar="N", help="their short side")
    longer = bench.add_mutually_exclusive_group()
    longer.add_argument("--seconds", type=_seconds, default=3.0, help="of each figure, at least; default: 3")
    longer.add_argument(
        "--repeats", type=whole(1, MOST_RUNS), metavar="N", help="runs of each figure, instead of seconds"
    )
    bench.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def add_evaluate(commands: Any, *, command: Command, root: Path) -> None:
    """Add it to the subparsers of the command line; ``root``: where models are if nothing else is said."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure the accuracy of a model on labelled images",
        description="Measure top-1 and top-5 on labelled images: a folder with one for each class, or a list file.",
    )
    evaluate.add_argument(
        "source", type=Path, metavar="DIR", help="a folder with a folder for each class, or a list file"
    )
    evaluate.add_argument("--model", required=True, help="a serving model's folder or name, or an official name")
    evaluate.add_argument(
        "--list", type=Path, metavar="FILE", help="lines of a path within DIR and a number of a class"
    )
    _add_common(evaluate, command=command, root=root, several=False)
    evaluate.add_argument(
        "--batch-size", type=whole(1, MOST_IMAGES_OF_A_RUN), default=8, metavar="N", help="images in a run; default: 8"
    )
    evaluate.add_argument("--jpeg-decode", default="exact", help="of config.yml's jpeg_decode; default: exact")
    evaluate.add_argument("--limit", type=whole(1, 10**9), metavar="N", help="so many images, evenly spread over all")
    evaluate.add_argument(
        "--wrong", type=Path, metavar="FILE", help="write the wrongly classified images there, as CSV"
    )
    evaluate.add_argument("--skip-unreadable", action="store_true", help="status 0 though files could not be read")
    evaluate.add_argument("--json", action="store_true", help="one JSON object instead of text")


def _add_common(parser: argparse.ArgumentParser, *, command: Command, root: Path, several: bool) -> None:
    parser.set_defaults(command=command)
    parser.add_argument(
        "--from", dest="root", type=Path, default=root, metavar="FOLDER", help="where serving models are"
    )
    more = ", several separated by commas" if several else ""
    parser.add_argument("--engine", default="auto", help=f"of config.yml's native.engine{more}; default: auto")
    parser.add_argument("--precision", default="fp32", help=f"of config.yml's precision{more}; default: fp32")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), metavar="N", help="of a run; default: one a core")
    parser.add_argument("--device", default="cpu", help="cpu, gpu:N or tensorrt:N; default: cpu")


def bench_command(options: argparse.Namespace) -> int:
    """Measure, print, and the exit status. Raises ConfigError, ModelError."""
    from serving_models.latency import bench
    from serving_models.latency_tables import as_json, as_markdown

    plan = _plan(options)
    with _BenchProgress(plan) as progress:
        findings = bench(plan, progress)
    print(as_json(findings) if options.json else as_markdown(findings), flush=True)
    if findings.interrupted:
        return INTERRUPTED
    return FAILED if findings.failed else 0


def _plan(options: argparse.Namespace) -> Plan:
    from serving_models import engine_config
    from serving_models.latency import Plan, find
    from serving_models.variants import VARIANTS

    names = [*(VARIANTS if options.all else ()), *options.models]
    if not names:
        raise ConfigError(
            "no MODEL; accepted are official names, serving models, and --all for the twelve official ones"
        )
    if options.resize_short < options.image_size:
        size = options.image_size
        raise ConfigError(f"--resize-short {options.resize_short}: accepted is the --image-size, {size}, or more")
    return Plan(
        subjects=list(dict.fromkeys(find(name, options.root) for name in names)),
        engines=engine_config.read_engines(options.engine),
        precisions=engine_config.read_precisions(options.precision),
        batches=options.batch,
        device=engine_config.read_device(options.device),
        threads=options.threads or engine_config.usable_cores(),
        image_size=options.image_size,
        resize_short=options.resize_short,
        seconds=options.seconds,
        repeats=options.repeats,
    )


class _BenchProgress:
    """On standard error a line for each model, engine and precision, and where that is a terminal a bar below."""

    def __init__(self, plan: Plan) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        disable = not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=disable)
        self._task = self._bar.add_task("", total=len(plan.subjects) * plan.figures_of_a_model)

    def __enter__(self) -> _BenchProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def doing(self, text: str) -> None:
        """As latency.Report."""
        self._bar.update(self._task, description=text)

    def done(self, figures: int) -> None:
        """As latency.Report."""
        self._bar.advance(self._task, figures)

    def line(self, text: str) -> None:
        """As latency.Report."""
        self._console.print(text, soft_wrap=True)


def require_source(source: Path) -> None:
    """Before a model is fetched or made. Raises ModelError where there are no images to be."""
    if not os.path.exists(source):
        raise ModelError(
            f"{source}: no such folder or file; accepted are a folder with a folder for each class, or a list"
        )


def evaluate_command(options: argparse.Namespace, model_config: Path) -> int:
    """Measure a serving model, print, and the exit status. Raises ConfigError, ModelError, and OSError of --wrong."""
    from service.ops.model import load_model
    from serving_models.evaluate import Evaluator, WrongAnswers, spread
    from serving_models.evaluation_report import as_json, as_text
    from serving_models.labelled_images import labelled_images

    config = _evaluate_config(options, model_config)
    labels = load_model(model_config).labels
    images = spread(labelled_images(options.source, options.list, labels), options.limit)
    with WrongAnswers(options.wrong, labels) if options.wrong else nullcontext() as wrong:
        evaluator = Evaluator(config)
        with _evaluate_progress(len(images)) as tell:
            counted = evaluator.run(images, tell, wrong)
    text = as_json if options.json else as_text
    print(text(counted, evaluator.model, evaluator.config), flush=True)
    if counted.interrupted:
        return INTERRUPTED
    if not counted.images:
        raise ModelError(f"{options.source}: none of {len(images)} files could be read, so nothing was measured")
    return FAILED if counted.unreadable and not options.skip_unreadable else 0


def _evaluate_config(options: argparse.Namespace, model_config: Path) -> Config:
    from serving_models import engine_config

    return engine_config.engine_config(
        model_config,
        engine=engine_config.read_one(engine_config.read_engines(options.engine), "--engine"),
        precision=engine_config.read_one(engine_config.read_precisions(options.precision), "--precision"),
        device=engine_config.read_device(options.device),
        threads=options.threads or engine_config.usable_cores(),
        batch_size=options.batch_size,
        jpeg_decode=engine_config.read_jpeg_decode(options.jpeg_decode),
    )


@contextmanager
def _evaluate_progress(images: int) -> Iterator[Callable[[Evaluation], None]]:
    """A bar on standard error, and nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=images, figures="")

        def tell(counted: Evaluation) -> None:
            top1 = f"  top-1 {counted.top1 / counted.images:.2%}" if counted.images else ""
            bar.update(task, completed=counted.done, figures=f"{counted.rate:.1f} images/s{top1}")

        yield tell


def _batches(text: str) -> list[int]:
    return list(dict.fromkeys(map(whole(1, MOST_IMAGES_OF_A_RUN), text.split(","))))


def _seconds(text: str) -> float:
    seconds = real(text)
    if not 0 < seconds <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted are seconds above 0, to {MOST_SECONDS:g}")
    return seconds
