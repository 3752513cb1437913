"""The overlays that docs/kubernetes.md shows render as they stand there, and are as good as ours."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from complaints import aim, complaints
from policies import SKIPPED
from rendering import K8S, ROOT, Choice, render
from schemas import NEWEST, VERSIONS, faults

TEXT = (ROOT / "docs/kubernetes.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_as_good_as_our_overlays(example: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    mine = tmp_path / "k8s/overlays/mine/kustomization.yaml"
    mine.parent.mkdir()
    mine.write_text(example)
    [overlay] = [Path(path).name for path in yaml.safe_load(example)["resources"]]
    components = tuple(Path(path).name for path in yaml.safe_load(example).get("components", []))

    manifests = render(Choice("mine"), tmp_path / "k8s")
    manifests = type(manifests)(Choice(overlay, components), manifests.documents)

    assert [fault for document in manifests.documents for fault in faults(document, NEWEST)] == []
    assert complaints(manifests) == []
    for autoscaler in manifests.autoscalers:
        op = manifests.config.regnet
        assert aim(autoscaler) == ("regnetx_slots_in_use", 2 * op.concurrency * op.batch_size)


def test_what_is_said_of_the_checks_is_so() -> None:
    assert f"Kubernetes {VERSIONS[0]} to {NEWEST}" in " ".join(TEXT.split())
    assert len(SKIPPED) == 3 and "three checks are skipped" in TEXT


def test_every_overlay_and_component_is_named() -> None:
    for path in (*(K8S / "overlays").iterdir(), *(K8S / "components").iterdir()):
        assert f"`overlays/{path.name}`" in TEXT or f"`components/{path.name}`" in TEXT or f"`{path.name}`" in TEXT
