"""The command line: ``python -m service serve | predict | compare-decoding | check``."""

if __name__ == "__main__":  # first, for what is imported below takes a while
    import sys

    from service.startup import early_signals, open_missing_streams

    open_missing_streams()
    if sys.argv[1:2] == ["serve"]:
        early_signals()

import argparse
import asyncio
import contextlib
import errno
import io
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from service import __version__
from service.config import MODEL_VARIABLE, Config, load_config
from service.errors import ServiceError, StartupError

if TYPE_CHECKING:
    from service.native.supervisor import Supervisor
    from service.ops.model import Model

READER_LEFT = 141  # what a shell says of a program that SIGPIPE ended
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> int:
    """Run one command; 0 when it did what was asked, 1 when images failed, 2 when it could not start."""
    arguments = _parser().parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        result = int(arguments.run(arguments))
        print(end="", flush=True)
        return result
    except BrokenPipeError:
        _write_to_nobody()
        return READER_LEFT
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        _write_to_nobody()
        print(f"regnetx: what was asked for cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except StartupError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _write_to_nobody() -> None:
    """Whoever read the output has left, as ``head`` does, or its disk is full; the rest would be an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=__import__("service").__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=Path("config.yml"), help="default: config.yml")
    common.add_argument("--model", help="serving model to use instead of the configuration's model_config")
    serve = commands.add_parser("serve", parents=[common], help="answer requests over HTTP and gRPC")
    serve.set_defaults(run=_serve)
    predict = commands.add_parser("predict", parents=[common], help="classify image files without a server")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--top-k", type=_count, default=5, help="classes an image, best first; default: 5")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.set_defaults(run=_predict)
    compare = commands.add_parser(
        "compare-decoding", parents=[common], help="what native.jpeg_decode: scaled would change, on JPEGs of yours"
    )
    compare.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, and folders of JPEGs")
    compare.add_argument(
        "--least-agreement", type=_percent, default=0.0, metavar="PERCENT", help="exit with 1 if fewer answers stay"
    )
    compare.set_defaults(run=_compare_decoding)
    check = commands.add_parser("check", parents=[common], help="check configuration and model, print what is in force")
    check.set_defaults(run=_check)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text[:9]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text[:9])


def _percent(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 100:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")


def _configuration(arguments: argparse.Namespace) -> Config:
    environment = dict(os.environ)
    if arguments.model:
        environment[MODEL_VARIABLE] = arguments.model
    return load_config(arguments.config, environment)


class Checked(NamedTuple):
    """A configuration and a model that a service can start with."""

    asked: Config
    config: Config  # in force: with an engine in the place of ``auto``
    model: "Model"
    precision: str  # in words


def _checked(arguments: argparse.Namespace) -> Checked:
    """All that can be known before anything starts. Raises StartupError."""
    from service.engines.choice import in_force
    from service.engines.graph import precision_told
    from service.native.door_security import verify_doors
    from service.native.logs import set_up_logging
    from service.native.trace_settings import trace_settings
    from service.ops.model import load_verified

    asked = _configuration(arguments)
    model = load_verified(Path(asked.regnet.local_service_conf.model_config_))
    set_up_logging(asked.native)
    verify_doors(asked.native, os.environ)
    trace_settings(os.environ)
    config = in_force(asked, model)
    return Checked(asked, config, model, precision_told(config, model))


def _serve(arguments: argparse.Namespace) -> int:
    from service.native.output import unblock
    from service.native.ready import announce, announce_admin
    from service.native.supervisor import Supervisor

    unblock("stdout")
    unblock("stderr")
    asked, config, model, precision = _checked(arguments)
    doors = (partial(announce, config, model, precision), partial(announce_admin, config))
    asyncio.run(_to_its_end(Supervisor(config, asked, *doors)))
    return 0


async def _to_its_end(supervisor: "Supervisor") -> None:
    """The loop takes its handlers along, and then another signal would change how the program ends."""
    try:
        await supervisor.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _predict(arguments: argparse.Namespace) -> int:
    from service.predict import LocalClassifier

    config = _configuration(arguments)
    classifier = LocalClassifier(config)
    failed = 0
    for path in arguments.images:
        try:
            predictions = classifier.classify(path, top_k=arguments.top_k)
        except (ServiceError, OSError) as error:
            failed += 1
            print(f"{path}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
            continue
        if arguments.json:
            print(json.dumps({"image": str(path), "top_k": [vars(prediction) for prediction in predictions]}))
        else:
            best = "  ".join(f"{prediction.label} {prediction.prob:.4f}" for prediction in predictions)
            print(f"{path}  {best}")
    return 1 if failed else 0


def _compare_decoding(arguments: argparse.Namespace) -> int:
    from service.compare_decoding import compare_decoding

    return compare_decoding(_configuration(arguments), arguments.paths, least_agreement=arguments.least_agreement)


def _check(arguments: argparse.Namespace) -> int:
    _, config, model, precision = _checked(arguments)
    print(config.model_dump_json(by_alias=True, indent=2))
    print(
        f"model {model.name}: {model.architecture}, {model.classes} classes, {model.height}x{model.width};"
        f" engine {config.native.engine}, {precision}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
