"""The command line: ``python -m serving_models export SOURCE | list | prepare [NAME] | fetch URL | quantize MODEL``."""

from __future__ import annotations

if __name__ == "__main__":  # first: the files that it writes must not get a standard stream's number
    from service.startup import open_missing_streams

    open_missing_streams()

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from service.errors import ConfigError, ModelError, StartupError
from serving_models.measure_commands import add_bench, add_evaluate, bench_command, evaluate_command, require_source
from serving_models.quantize_command import add_quantize, quantize_command, require_images

if TYPE_CHECKING:
    from serving_models.export import Exported

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
DEFAULT_ROOT = Path("serving_models")
TOKEN_VARIABLE = "REGNETX_SERVING_MODELS_TOKEN"

Report = Callable[[str], None]
Bytes = Callable[[str, int, int | None], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 where something was refused, 1 where network or disk failed. Failures are one line."""
    _let_any_text_through()
    options = _parser().parse_args(arguments)
    try:
        status = options.command(options)
    except (ModelError, ConfigError) as error:
        return _fail(str(error), REFUSED)
    except StartupError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        _drop_unwritten()
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted, nothing was written", INTERRUPTED)
    return int(status or 0)


def _let_any_text_through() -> None:
    """Paths are bytes, labels any language's, and a terminal may know neither: no reason to fail after the work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")


def _drop_unwritten() -> None:
    """Where stdout itself is what failed, Python would try once more at exit, and complain."""
    with suppress(OSError):
        print(end="", flush=True)
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving_models", description="RegNetX models, made ready to serve")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write a serving model", description="Write a serving model.")
    export.set_defaults(command=_export)
    export.add_argument(
        "source",
        metavar="SOURCE",
        help="a PaddleClas inference model (folder or tar), PaddleClas weights (.pdparams), or an official name",
    )
    export.add_argument("--name", help="the model's name; otherwise its architecture's, as regnetx_200mf")
    export.add_argument("--force", action="store_true", help="replace a model of that name")
    export.add_argument("--labels", type=Path, metavar="FILE", help="labels, one a line, in class order")
    export.add_argument("--image-size", type=_pixels, metavar="N", help="side of the crop in pixels")
    export.add_argument("--resize-short", type=_pixels, metavar="N", help="short side before the crop in pixels")

    listing = commands.add_parser(
        "list", help="the twelve variants", description="The twelve variants, with their figures."
    )
    listing.set_defaults(command=_list)

    prepare = commands.add_parser(
        "prepare",
        help="make sure that there is a model to serve, and print its path",
        description="Make sure that there is a model to serve, and print its path, and nothing else, on stdout.",
    )
    prepare.set_defaults(command=_prepare)
    prepare.add_argument(
        "name", nargs="?", metavar="NAME", help="an exported model, a path to one, or an official model"
    )

    fetch = commands.add_parser(
        "fetch",
        help="download a serving model, verify it, and print its path",
        description="Download a tar of a serving model, verify it, unpack it, and print its path, and nothing else, on "
        f"stdout. A private server's bearer token is read from the environment variable {TOKEN_VARIABLE}.",
    )
    fetch.set_defaults(command=_fetch)
    fetch.add_argument("url", metavar="URL", help="http:// or https://, of a .tar, plain or compressed")
    fetch.add_argument("--sha256", required=True, metavar="HEX", help="of the tar, as sha256sum prints it")
    fetch.add_argument("--name", help="the model's name; otherwise the file's, without .tar, .tgz or .tar.gz")
    fetch.add_argument("--force", action="store_true", help="replace another model of that name")
    fetch.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the token instead")

    add_bench(commands, command=_bench, root=DEFAULT_ROOT)
    add_evaluate(commands, command=_evaluate, root=DEFAULT_ROOT)
    add_quantize(commands, command=_quantize, root=DEFAULT_ROOT)

    for command in (export, prepare, fetch):
        command.add_argument("--to", type=Path, default=DEFAULT_ROOT, metavar="FOLDER", help="where models are written")
    return parser


def _export(options: argparse.Namespace) -> None:
    with _progress() as (report, progress):
        report("starting Paddle")
        # Late: a wrong option is answered at once, and Paddle takes a second to import.
        from serving_models.export import Options, export

        chosen = Options(
            root=options.to,
            name=options.name,
            force=options.force,
            labels=options.labels,
            image_size=options.image_size,
            resize_short=options.resize_short,
        )
        exported = export(options.source, chosen, report=report, progress=progress)
    _print_summary(exported)


def _prepare(options: argparse.Namespace) -> None:
    from serving_models.prepare import prepare

    with _progress() as (report, progress):
        path = prepare(options.name, options.to, report=report, progress=progress, tell=_tell)
    print(path, flush=True)  # a disk that is full is noticed here, and not at exit


def _fetch(options: argparse.Namespace) -> None:
    from serving_models.fetch import Wanted, fetch_model

    wanted = Wanted(
        url=options.url,
        sha256=options.sha256,
        root=options.to,
        name=options.name,
        token=_token(options.token_file),
        force=options.force,
    )
    with _interrupted_by_sigterm(), _progress() as (_, progress):
        path = fetch_model(wanted, progress)
    print(path, flush=True)


def _bench(options: argparse.Namespace) -> int:
    with _interrupted_by_sigterm():
        return bench_command(options)


def _evaluate(options: argparse.Namespace) -> int:
    from serving_models.prepare import prepare

    require_source(options.source)
    with _progress() as (report, progress):
        model = prepare(options.model, options.root, report=report, progress=progress, tell=_tell)
    with _interrupted_by_sigterm():
        return evaluate_command(options, model)


def _quantize(options: argparse.Namespace) -> None:
    from serving_models.prepare import prepare

    require_images(options.images)
    with _progress() as (report, progress):
        model = prepare(options.model, options.root, report=report, progress=progress, tell=_tell)
        with _interrupted_by_sigterm():
            table = quantize_command(options, model, report=report, tell=_tell)
    Console().print(table)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """The first process of a container is not ended by a SIGTERM that it does not handle."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _token(file: Path | None) -> str | None:
    """From a file, else from the environment, where an empty variable is none."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise ModelError(f"{file}: not a token; accepted is ASCII text") from None


def _tell(line: str) -> None:
    # Through rich, a line stays above the progress bar; soft_wrap keeps it one line.
    Console(stderr=True, highlight=False, markup=False).print(line, soft_wrap=True)


def _list(_: argparse.Namespace) -> None:
    from serving_models.listing import print_variants

    print_variants()


def _print_summary(exported: Exported) -> None:
    from serving_models.summary import summary_table

    Console().print(summary_table(exported))


@contextmanager
def _progress() -> Iterator[tuple[Report, Bytes]]:
    """What is being done, and how far a download is, on stderr; nothing of it where that is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with (
        warnings.catch_warnings(),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        warnings.simplefilter("ignore")  # of Paddle, to its developers
        step = bar.add_task("", total=None, amount="")

        def report(text: str) -> None:
            bar.update(step, description=text, completed=0, total=None, amount="")

        def progress(name: str, here: int, total: int | None) -> None:
            amount = f"{here / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{here / 1e6:.1f} MB"
            bar.update(step, description=f"downloading {name}", completed=here, total=total, amount=amount)

        yield report, progress


def _pixels(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a whole number of pixels from 1 to 4096")
    return number


if __name__ == "__main__":
    sys.exit(main())
