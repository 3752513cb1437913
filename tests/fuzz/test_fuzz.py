"""Every target for a while, the same cases each time; hours of others: ``make fuzz SECONDS=3600``."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.session import run

SEED = 20
# As many as take about four seconds each on two cores
CASES = {"http": 96, "grpc": 128, "image": 1000, "config": 240, "model": 160, "client": 80}


@pytest.mark.parametrize("name", CASES)
def test_hostile_input_is_answered_or_refused_and_breaks_nothing(name: str, digits_model: Path) -> None:
    outcome = run(name, digits_model, seed=SEED, cases=CASES[name])
    assert outcome.cases >= CASES[name]
    assert not [f"case {finding.number}: {finding.text[-1500:]}" for finding in outcome.findings]
