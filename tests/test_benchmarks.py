"""The table of `make bench`: its arithmetic, its errors, its open loop; no peer is installed and no time asserted."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
from running import ROOT

from benchmarks import environments, records, table
from benchmarks.asking import answer_sizes
from benchmarks.environments import NotInstalled, install
from benchmarks.forms import BadAnswer, pipeline
from benchmarks.h2load import Closed, LoadError, closed_loop, summary
from benchmarks.measure import _check_counts, _check_size
from benchmarks.memory import slope
from benchmarks.open_loop import arrivals, latencies_of, open_loop
from benchmarks.report import write_report

SITUATION = {"model": "RegNetX_200MF", "image": "500x375"}
FORM = pipeline("regnet")["http"]
GOOD = b'{"err_no":0,"err_msg":"","key":["label","prob"],"value":["[\'cat\']","[0.9]"],"tensors":[]}'
BAD = b'{"err_no":8000,"err_msg":"no","key":[],"value":[],"tensors":[]}'
LOCKS = sorted((ROOT / "benchmarks/peers").glob("*/requirements.txt"))

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed here")


def record(subject, rate, *, door="http", concurrency=32, round_=0, **more):
    figures = {
        "images_per_second": rate,
        "p50": 0.01,
        "p99": 0.02,
        "images": 100,
        "cpu_seconds": 1.0,
        "peak_bytes": 2**20,
    }
    of = {"subject": subject, "round": round_, "door": door, "concurrency": concurrency}
    return SITUATION | of | figures | more


def broken(subject, error, **more):
    return SITUATION | {"subject": subject, "round": 0, "door": "http", "concurrency": 32, "error": error} | more


@contextmanager
def answering(status, body):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.wfile.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64  # callers at once

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_ratio_is_taken_within_each_round_and_the_median_shown():
    # The machine was half as fast in the second round, and slower still in the third.
    seen = [record("auto", rate, round_=number) for number, rate in enumerate((200, 100, 40))]
    seen += [record("stock", rate, round_=number) for number, rate in enumerate((20, 10, 8))]
    assert table.ratio(seen, table.at(["auto"], "http"), table.at(["stock"], "http")) == 10


def test_a_round_that_lacks_one_side_gives_no_ratio():
    seen = [record("auto", 200), record("auto", 200, round_=1), record("stock", 20)]
    assert table.ratio(seen, table.at(["auto"], "http"), table.at(["stock"], "http")) is None


def test_throughput_is_that_of_the_best_concurrency_and_the_best_peer():
    seen = [record("auto", 100, concurrency=1), record("auto", 250), record("mosec", 125), record("fastapi", 200)]
    aims = {aim.text: aim for aim in table.aims(seen, None)}
    best = aims["throughput to the best peer, base64"]
    assert (best.value, best.verdict) == (1.25, "met")
    assert aims["throughput to tuned stock, base64"].verdict == "not measured"


def test_an_aim_that_is_missed_is_said_to_be():
    seen = [
        record("auto", 100),
        record("stock", 20),
        record("auto", 0, share=0.7, concurrency=None, p50=0.01, p99=0.04),
    ]
    verdicts = {aim.text: aim.verdict for aim in table.aims(seen, 50.0)}
    assert verdicts["throughput to plain stock, base64"] == "not met"
    assert verdicts["p99 / p50 at 70 % of capacity"] == "not met"
    assert verdicts["memory, KiB more for each 1000 of 100 000 requests"] == "not met"


def test_a_cell_that_failed_once_is_an_error_and_not_a_fast_row(tmp_path):
    failed = [record("mosec", 9999), broken("mosec", "of 10 answers not all were good", round=1), record("auto", 100)]
    [auto, mosec] = table.rows(failed)
    assert (auto.subject, mosec.subject, mosec.figures) == ("auto", "mosec", {})
    write_report(failed, tmp_path / "R.md", command="python -m benchmarks")
    text = (tmp_path / "R.md").read_text()
    assert "| mosec | HTTP base64 | 32 | error: of 10 answers not all were good |" in text
    assert "9999" not in text


def test_a_peer_that_cannot_be_installed_is_named_in_the_table_with_the_reason(tmp_path):
    lock = tmp_path / "locks/broken/requirements.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("no-hash==1.0\n")
    with pytest.raises(NotInstalled) as why:
        install("broken", folder=tmp_path / "environments", locks=tmp_path / "locks")
    assert "--require-hashes" in str(why.value) or "hash" in str(why.value)
    write_report([broken("litserve", f"not installed: {why.value}")], tmp_path / "R.md", command="x")
    assert re.search(r"\| LitServe \| .* error: not installed: .*hash", (tmp_path / "R.md").read_text(), re.IGNORECASE)
    assert not (tmp_path / "environments/broken" / environments.STAMP).exists()


def test_a_run_that_was_cut_short_is_read_up_to_the_line_that_is_whole(tmp_path):
    file = tmp_path / "results.jsonl"
    records.append(file, record("auto", 100))
    records.append(file, SITUATION | {"subject": "auto", "round": 0, "finished": True})
    records.append(file, record("stock", 10))
    with file.open("a") as stream:
        stream.write('{"subject": "mos')
    read = records.read(file)
    assert records.finished(read) == {(0, "RegNetX_200MF", "500x375", "auto")}
    assert [row.subject for row in table.rows(read)] == ["auto", "stock"]


@needs_h2load
def test_a_server_that_answers_500_is_an_error(tmp_path):
    (tmp_path / "body").write_bytes(b"{}")
    with answering(500, GOOD) as address, pytest.raises(LoadError, match="not all were good"):
        closed_loop(
            f"http://{address}/", "application/json", tmp_path / "body", concurrency=2, seconds=0.2, folder=tmp_path
        )


@needs_h2load
def test_a_server_that_answers_well_is_measured(tmp_path):
    (tmp_path / "body").write_bytes(b"{}")
    with answering(200, GOOD) as address:
        seen = closed_loop(
            f"http://{address}/", "application/json", tmp_path / "body", concurrency=2, seconds=0.3, folder=tmp_path
        )
    assert seen.images * len(GOOD) <= seen.data_bytes <= (seen.images + 2) * len(GOOD)
    assert seen.images > 0 and 0 < seen.p50 <= seen.p99


def test_an_answer_with_an_err_no_or_another_label_is_an_error():
    with answering(200, BAD) as address, pytest.raises(BadAnswer, match="8000"):
        answer_sizes(address, FORM, b"image", ["cat"])
    with answering(200, GOOD) as address:
        assert answer_sizes(address, FORM, b"image", ["cat"]) == (len(GOOD), len(GOOD))
        with pytest.raises(BadAnswer, match="'cat', expected"):
            answer_sizes(address, FORM, b"image", ["dog"])


def test_answers_of_another_size_than_good_ones_and_other_counts_than_the_servers_are_errors():
    seen = Closed(10, 0.1, 0.1, images=100, data_bytes=10_200)
    _check_size(seen, 2, [(100, 101), (100, 101)])
    with pytest.raises(BadAnswer, match="on average"):
        _check_size(replace(seen, data_bytes=7000), 2, [(100, 101), (100, 101)])
    _check_counts({"answered": 1, "caller_left": 0}, {"answered": 11, "caller_left": 2}, 10)
    with pytest.raises(BadAnswer, match="overloaded"):
        _check_counts({"answered": 1, "overloaded": 0}, {"answered": 11, "overloaded": 5}, 10)


def test_what_h2load_could_not_finish_is_an_error():
    with pytest.raises(LoadError, match="h2load said"):
        summary("could not resolve host", "", 1.0)


def test_arrivals_are_those_of_the_rate_and_the_same_again():
    times = arrivals(100, 50)
    assert times == arrivals(100, 50) == sorted(times)
    assert 4500 < len(times) < 5500 and times[-1] < 50
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # Of an exponential distribution 1 - 1/e lies below the mean.
    assert 0.6 < sum(gap < 0.01 for gap in gaps) / len(gaps) < 0.66


async def test_a_stall_shows_in_all_that_arrived_meanwhile():
    stalled = asyncio.Event()

    async def connect():
        async def ask():
            await stalled.wait()

        return ask

    asyncio.get_running_loop().call_later(0.3, stalled.set)
    latencies = await latencies_of(connect, [0.0, 0.1, 0.2])
    # Each is counted from when it was due, so the first waited longest.
    assert latencies[0] >= 0.29 and latencies[1] >= 0.19 and latencies[2] >= 0.09
    assert latencies[0] > latencies[1] > latencies[2]


async def test_an_error_in_the_open_loop_is_no_latency():
    with answering(200, BAD) as address, pytest.raises(ExceptionGroup) as group:
        await open_loop(address, FORM, b"image", rate=50, seconds=0.1)
    assert all(isinstance(error, BadAnswer) for error in group.value.exceptions)


def test_the_slope_of_memory_is_that_after_the_warm_up():
    samples = [(0, 0.0), (500, 9e9), (1000, 100.0), (2000, 200.0), (3000, 300.0)]
    assert slope(samples, after=1000) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least 3"):
        slope(samples, after=2500)


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.parent.name for lock in LOCKS])
def test_a_peers_lock_pins_and_hashes_everything_and_holds_no_address(lock):
    text = lock.read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    requirements = re.findall(r"^[a-zA-Z0-9].*$", text, re.MULTILINE)
    assert requirements and all("==" in requirement for requirement in requirements)
    assert text.count("--hash=sha256:") >= len(requirements)


def test_records_are_json_lines(tmp_path):
    records.append(tmp_path / "r.jsonl", record("auto", 1))
    assert json.loads((tmp_path / "r.jsonl").read_text())["subject"] == "auto"
