"""Mixed traffic for a long time: does memory grow, does anything leak, does latency drift, is any request lost?

    python -m benchmarks.soak [--minutes 30] [--workers 6] [--config config.yml] [--out build/soak]

Good and bad images of several sizes over HTTP (base64, raw, multipart) and gRPC, slow and vanishing clients, health
checks and scrapes, from a closed loop of a few workers that pause between requests. Every 10 seconds a line of JSON
goes to OUT.jsonl; at the end OUT.md says what was seen. Exit code 1 where a request was lost or something leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np

from benchmarks.load import METHOD, grpc_request, http_body, quantile
from benchmarks.processes import family, memory
from benchmarks.subjects import export_random_model
from benchmarks.throughput import ROOT, configuration, serving
from regnetx_client.wire import pipeline_service_pb2 as wire

WINDOW_SECONDS = 10.0
ANSWER_SECONDS = 60.0  # then a request counts as lost
PAUSE_SECONDS = 0.05  # between two requests of a worker
WARM_UP = 1 / 6  # of the run, not looked at for slopes
MOST_SLOPE = 20 << 20  # bytes an hour, all processes together
SHARES = {"http": 6, "http-raw": 4, "http-form": 3, "grpc": 4, "grpc-bytes": 3, "bad": 3, "slow": 1, "gone": 1}
SHARES |= {"healthz": 2, "readyz": 1, "metrics": 1}
REFUSED = (429, 503, 504)
Reply = tuple[str, bool]  # what came of a request in a word, and whether its time counts as latency


@dataclass
class Tally:
    """What became of every request; ``begun`` is the sum of the others when nobody waits any more."""

    begun: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # of the current window


class Traffic:
    """The kinds of request; each returns what came of it."""

    def __init__(self, addresses: Mapping[str, str], channel: grpc.aio.Channel) -> None:
        self._addresses = addresses
        self._method = channel.unary_unary(METHOD)
        self._images = [_jpeg(*size) for size in ((32, 32), (375, 500), (1200, 1600))]

    async def one(self, kind: str, choice: random.Random) -> Reply:
        """One request. Whatever it raises is a loss."""
        image = choice.choices(self._images, (5, 10, 1))[0]
        if kind.startswith("grpc"):
            return await self._call(grpc_request(kind, image))
        if kind in ("healthz", "readyz", "metrics"):
            return await self._get(kind)
        if kind == "bad":
            return await self._post(
                *http_body("http", choice.choice((image[: len(image) // 2], b"text", b""))), bad=True
            )
        if kind == "gone":
            return await self._leave(*http_body("http", image))
        body, media = http_body("http" if kind == "slow" else kind, image)
        return await self._post(body, media, slow=kind == "slow")

    async def _call(self, request: wire.Request) -> Reply:
        try:
            answer = wire.Response.FromString(await self._method(request.SerializeToString(), timeout=ANSWER_SECONDS))
        except grpc.aio.AioRpcError as error:
            refused = error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
            return f"{'refused' if refused else 'failed'} {error.code().name}", False
        return ("answered", True) if answer.err_no == 0 else (f"failed err_no {answer.err_no}", False)

    async def _get(self, what: str) -> Reply:
        status, _ = await self._exchange(
            "admin", f"GET /{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        return (f"answered {what}" if status == 200 else f"failed {what} {status}"), False

    async def _post(self, body: bytes, media: str, *, slow: bool = False, bad: bool = False) -> Reply:
        status, content = await self._exchange("http", _post_head(body, media), body, slow=slow)
        if status in REFUSED:
            return f"refused {status}", False
        if status != 200:
            return f"failed {status}", False
        number = json.loads(content)["err_no"]
        if bad:
            return ("answered bad image" if number else "failed: a bad image was classified"), False
        return (
            ("answered slow" if slow else "answered", not slow) if number == 0 else (f"failed err_no {number}", False)
        )

    async def _leave(self, body: bytes, media: str) -> Reply:
        """A caller that hangs up, before or after its request is whole; there is nothing to lose."""
        _, writer = await asyncio.open_connection(*self._addresses["http"].rsplit(":", 1))
        whole = _post_head(body, media) + body
        writer.write(whole[: random.randrange(len(whole) + 1)])
        await writer.drain()
        writer.transport.abort()
        return "left", False

    async def _exchange(self, door: str, head: bytes, body: bytes = b"", *, slow: bool = False) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(*self._addresses[door].rsplit(":", 1))
        try:
            writer.write(head)
            for start in range(0, len(body), len(body) // 10 + 1) if slow else ():
                writer.write(body[start : start + len(body) // 10 + 1])
                await writer.drain()
                await asyncio.sleep(0.2)
            if not slow:
                writer.write(body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            content = await (reader.readexactly(int(length)) if length else reader.read())
            return int(answer.split()[1]), content
        finally:
            writer.close()


def _post_head(body: bytes, media: str) -> bytes:
    head = (
        f"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode()


def _jpeg(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))[1].tobytes()


async def _worker(number: int, traffic: Traffic, tally: Tally, until: float) -> None:
    choice = random.Random(number)
    while time.monotonic() < until:
        kind = choice.choices([*SHARES], [*SHARES.values()])[0]
        tally.begun += 1
        start = time.monotonic()
        try:
            word, timed = await asyncio.wait_for(traffic.one(kind, choice), ANSWER_SECONDS + 10)
        except Exception as error:  # whatever it is, nobody answered
            word, timed = f"lost {kind}: {type(error).__name__}", False
        tally.ended[word] += 1
        if timed:
            tally.latencies.append(time.monotonic() - start)
        await asyncio.sleep(PAUSE_SECONDS)


async def _windows(root: int, tally: Tally, until: float, tell: Callable[[dict[str, Any]], None]) -> None:
    start = time.monotonic()
    while time.monotonic() < until:
        await asyncio.sleep(min(WINDOW_SECONDS, max(0.0, until - time.monotonic())))
        tell(_sample(root, tally, time.monotonic() - start))
        tally.latencies = []


def _sample(root: int, tally: Tally, at: float) -> dict[str, Any]:
    times = sorted(tally.latencies)
    sample: dict[str, Any] = {"seconds": round(at, 1), "answers": len(times), "ended": dict(tally.ended)}
    if times:
        sample |= {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}
    processes = {}
    for pid in (root, *family(root)):
        with suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            processes[pid] = {
                "pss": memory(pid),
                "rss": int(status["VmRSS"].split()[0]) * 1024,
                "fds": len(os.listdir(f"/proc/{pid}/fd")),
                "threads": int(status["Threads"]),
            }
    return sample | {"processes": processes}


async def _soak(
    root: int, addresses: Mapping[str, str], options: argparse.Namespace
) -> tuple[Tally, list[dict[str, Any]]]:
    tally, samples = Tally(), list[dict[str, Any]]()
    until = time.monotonic() + options.minutes * 60
    with options.out.with_suffix(".jsonl").open("w") as lines:

        def tell(sample: dict[str, Any]) -> None:
            samples.append(sample)
            print(json.dumps(sample), file=lines, flush=True)

        async with grpc.aio.insecure_channel(addresses["grpc"]) as channel:
            traffic = Traffic(addresses, channel)
            work: list[Awaitable[None]] = [_worker(n, traffic, tally, until) for n in range(options.workers)]
            await asyncio.gather(*work, _windows(root, tally, until, tell))
    return tally, samples


def _total(sample: dict[str, Any], what: str) -> int:
    return sum(process[what] for process in sample["processes"].values())


def slope(samples: list[dict[str, Any]], what: str) -> float:
    """By least squares, an hour, of all processes together."""
    if len(samples) < 2:
        return 0.0
    hours = [sample["seconds"] / 3600 for sample in samples]
    return statistics.linear_regression(hours, [_total(sample, what) for sample in samples]).slope


def summary(tally: Tally, samples: list[dict[str, Any]]) -> tuple[str, bool]:
    """The Markdown, and whether all is well."""
    late = [sample for sample in samples if sample["seconds"] >= samples[-1]["seconds"] * WARM_UP]
    timed = [sample for sample in late if "p50" in sample] or [{"p50": 0.0, "p99": 0.0}]
    third = max(1, len(timed) // 3)
    lost = (
        sum(count for word, count in tally.ended.items() if word.startswith("lost"))
        + tally.begun
        - sum(tally.ended.values())
    )
    failed = sum(count for word, count in tally.ended.items() if word.startswith("failed"))
    slopes = {what: slope(late, what) for what in ("pss", "rss", "fds", "threads")}
    # Memory of a short run is still settling, and its slope is told but not judged. Nor is that of PSS: it grows when
    # other programs that map the same libraries end.
    leaks = samples[-1]["seconds"] >= 1200 and slopes["rss"] > MOST_SLOPE
    restarted = len({tuple(sorted(sample["processes"])) for sample in samples}) > 1
    well = not (lost or failed or leaks or restarted)
    lines = [f"Verdict: {'well' if well else 'NOT WELL'}: {lost} lost, {failed} failed, of {tally.begun} requests in "
             f"{samples[-1]['seconds'] / 60:.1f} minutes; processes {'changed' if restarted else 'are the same'}.", "",
             "| | first third | last third |", "|---|---|---|"]  # fmt: skip
    for name in ("p50", "p99"):
        ends = [statistics.median(one[name] for one in part) * 1000 for part in (timed[:third], timed[-third:])]
        lines.append(f"| {name}, median of the windows, ms | {ends[0]:.1f} | {ends[1]:.1f} |")
    lines += ["", "| after warm-up, all processes | begin | end | an hour |", "|---|---|---|---|"]
    for what, unit in (("pss", 2**20), ("rss", 2**20), ("fds", 1), ("threads", 1)):
        name = f"{what.upper()}, MiB" if unit > 1 else what
        lines.append(
            f"| {name} | {_total(late[0], what) / unit:.0f} | {_total(late[-1], what) / unit:.0f} "
            f"| {slopes[what] / unit:+.1f} |"
        )
    lines += ["", "| what became of the requests | |", "|---|---|"]
    lines += [f"| {word} | {count} |" for word, count in sorted(tally.ended.items())]
    return "\n".join(lines) + "\n", well


def main() -> int:
    """Start, soak, stop, tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="default: 30")
    parser.add_argument("--workers", type=int, default=6, help="requests in flight at most; default: 6")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yml", help="default: config.yml")
    parser.add_argument("--out", type=Path, default=ROOT / "build/soak", help="default: build/soak")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = export_random_model(Path(folder), "RegNetX_200MF", image_size=224)
        with serving(configuration(Path(folder), options.config, model, admin=True)) as (service, addresses):
            tally, samples = asyncio.run(_soak(service.pid, addresses, options))
    text, well = summary(tally, samples)
    options.out.with_suffix(".md").write_text(text)
    print(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
