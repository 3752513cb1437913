"""The dashboard as Grafana's own library reads it: whatever it does not know, it does not write back."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from rendering import K8S

with warnings.catch_warnings():
    # It would rather have dashboards in the form of Grafana 13, which older ones and the sidecar do not read.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARD = json.loads((K8S / "components/monitoring/regnetx-serving.json").read_text())


def written_back(dashboard: dict[str, Any]) -> dict[str, Any]:
    """Through the library's types and out of them again."""
    register_default_plugins()
    text = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(copy.deepcopy(dashboard)))
    return dict(json.loads(text))


def lost(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where something of ours is missing in theirs, or is something else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(mine, other, f"{path}[{place}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} is read as {theirs!r}"


def test_the_library_knows_everything_that_is_in_the_dashboard() -> None:
    assert list(lost(DASHBOARD, written_back(DASHBOARD))) == []


@pytest.mark.parametrize(
    ("path", "key"),
    [((), "titel"), (("panels", 0), "describtion"), (("panels", 0, "options"), "colourMode"),
     (("panels", 0, "targets", 0), "expression"), (("panels", 10, "fieldConfig", "defaults"), "units")],
)  # fmt: skip
def test_what_it_does_not_know_is_noticed(path: tuple[Any, ...], key: str) -> None:
    wrong = copy.deepcopy(DASHBOARD)
    place = wrong
    for part in path:
        place = place[part]
    place[key] = "x"
    assert any(f".{key}: 'x' is read as None" in one for one in lost(wrong, written_back(wrong)))
