"""The words of the command line -> checked options."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from regnetx_client.uploads import UPLOADS
from regnetx_client.version import __version__

URL = "http://localhost:18080"
ADDRESS = "localhost:9993"


class UsageError(Exception):
    """What was typed cannot be done; one line."""


@dataclass(frozen=True)
class Options:
    """What ``regnetx predict`` was asked."""

    paths: tuple[str, ...]
    top_k: int
    grpc: bool
    targets: tuple[str, ...]  # URLs, or host:port with --grpc
    all_addresses: bool
    format: str | None  # json, csv, or None: a table on a terminal, tab-separated elsewhere
    service: str
    timeout: float | None  # seconds
    concurrency: int
    batch: int
    retries: int
    upload: str
    ca: str | None  # files
    cert: str | None
    key: str | None
    token_file: str | None


class _Parser(argparse.ArgumentParser):
    """argparse prints the whole usage before an error; one line is enough."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parsed(arguments: Sequence[str] | None) -> Options:
    """The options; raises UsageError, or SystemExit after ``--help`` and ``--version``."""
    given = _parser().parse_args(arguments)
    if given.url is not None and given.grpc:
        raise UsageError("--url belongs to HTTP, with --grpc say --address HOST:PORT")
    if given.address is not None and not given.grpc:
        raise UsageError("--address belongs to gRPC, say --grpc too, or --url for HTTP")
    if given.all_addresses and given.grpc:
        raise UsageError("--all-addresses belongs to HTTP, with --grpc say --address dns:///HOST:PORT")
    return Options(
        paths=tuple(given.paths),
        top_k=given.top_k,
        grpc=given.grpc,
        targets=_addresses(given.address or [ADDRESS]) if given.grpc else _urls(given.url or [URL]),
        all_addresses=given.all_addresses,
        format=given.format,
        service=given.service,
        timeout=given.timeout,
        concurrency=given.concurrency,
        batch=given.batch,
        retries=given.retries,
        upload=given.upload,
        ca=given.ca,
        cert=given.cert,
        key=given.key,
        token_file=given.token_file,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="regnetx", description="Asks a RegNetX service what images show.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"regnetx-client {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    predict = commands.add_parser("predict", help="classify images", allow_abbrev=False)
    predict.description = "Classifies images: files, folders (searched through) and globs."
    predict.add_argument("paths", metavar="PATH", nargs="+", help="an image, a folder or a glob")
    predict.add_argument("--top-k", metavar="K", type=_count, default=1, help="predictions of each image (1)")
    _add_server(predict)
    _add_security(predict)
    _add_output(predict)
    predict.add_argument("--concurrency", metavar="N", type=_count, default=8, help="requests in flight (8)")
    predict.add_argument("--batch", metavar="N", type=_count, default=1, help="images in one request (1)")
    predict.add_argument("--retries", metavar="N", type=_number, default=3, help="more tries when refused (3)")
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", action="append", help=f"the server over HTTP ({URL}); several, or with commas between: its replicas"
    )
    parser.add_argument("--all-addresses", action="store_true", help="each address of the URL's host is a replica")
    parser.add_argument("--grpc", action="store_true", help="use gRPC (needs the extra 'grpc')")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        action="append",
        help=f"the server over gRPC ({ADDRESS}); several, or dns:///HOST:PORT: its replicas",
    )
    parser.add_argument("--service", metavar="NAME", default="regnet", help="the service's name (regnet)")
    parser.add_argument(
        "--timeout", metavar="S", type=_timeout, default=30.0, help="seconds for a request, or none (30)"
    )
    parser.add_argument(
        "--upload", choices=UPLOADS, default="auto", help="images as base64, as they are, or as the server says (auto)"
    )


def _add_security(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ca", metavar="FILE", help="authorities to trust, PEM; with --grpc it switches TLS on")
    parser.add_argument("--cert", metavar="FILE", help="the certificate to show, PEM")
    parser.add_argument("--key", metavar="FILE", help="its key, where that is in another file")
    parser.add_argument("--token-file", metavar="FILE", help="the token to show; else that of REGNETX_TOKEN, if set")


def _add_output(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="format", action="store_const", const="json", help="a JSON object a line")
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="CSV with a heading")


def _urls(given: Sequence[str]) -> tuple[str, ...]:
    # A comma may stand inside a URL too.
    return tuple(url.strip() for text in given for url in re.split(r",\s*(?=https?://)", text))


def _addresses(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(address for text in given for address in text.split(","))


def _count(text: str) -> int:
    return _whole(text, least=1)


def _number(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return number


def _timeout(text: str) -> float | None:
    if text == "none":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds, nor 'none'")
    return seconds
