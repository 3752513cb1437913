"""What was recorded of plain stock, asked of both runtimes: they answer the same, errors of images included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import stock
from running import ROOT, configuration, serving
from stock import output_of, stock_configuration, stock_serving
from test_recorded import headers_of, same_answer

pytestmark = pytest.mark.skipif(bool(stock.why_not()), reason=stock.why_not() or "it can")
RECORDED = Path(__file__).parent / "recorded/digits.json"
REPLAY = """
import json, sys
sys.path.insert(0, sys.argv[2])
from recorded.record import exchange, padded
answers = []
for row in json.loads(open(sys.argv[3], encoding="utf-8").read()):
    if "body" in row:
        sent = {name: row[name] for name in ("verb", "target", "headers") if name in row}
        answers.append(exchange(**sent, body=padded(row), port=int(sys.argv[1])))
print(json.dumps(answers))
"""
# docs/migrating.md, "What the stock runtime closes, and what it cannot"
DIFFERENT = {
    "5 MiB of answer",
    "profile",
    "profile, with an op that does not take it for an image",
}


def replay(address: str) -> list[str]:
    port = address.rpartition(":")[2]
    return [sys.executable, "-c", REPLAY, port, str(ROOT / "tests"), str(RECORDED)]


def test_both_runtimes_answer_the_recorded_requests_alike(digits_model, tmp_path):
    with serving(tmp_path, configuration(digits_model, name="imagenet")) as native:
        ours = json.loads(output_of(replay(native.http)))
    with stock_serving(tmp_path, stock_configuration(digits_model, name="imagenet")) as running:
        others = json.loads(running.ask(replay(running.http)))
    rows = [row for row in json.loads(RECORDED.read_text(encoding="utf-8")) if "body" in row]
    differ = {
        row["about"]
        for row, one, two in zip(rows, ours, others, strict=True)
        if (one["status"], headers_of(one)) != (two["status"], headers_of(two))
        or not same_answer(one["answer"], two["answer"])
    }
    assert differ == DIFFERENT
