"""What is in the images, what is not, and what a change rebuilds."""

from __future__ import annotations

import json
import shutil

import pytest
from building import REVISION, VERSION
from containers import ROOT

# Bytes, as `docker image inspect` counts them; docs/containers.md has the figures measured.
BOUNDS = {"cpu": 1_800_000_000, "export": 1_800_000_000, "paddle-serving": 1_900_000_000, "gpu": 7_500_000_000}
TARGETS = ("cpu", "export", "paddle-serving", "gpu")


@pytest.fixture(params=TARGETS)
def image(request, images):
    """Each of the images that are built in this run."""
    fixtures = {"paddle-serving": "stock_image", "gpu": "gpu_image"}
    name = fixtures.get(request.param)
    return request.param, request.getfixturevalue(name) if name else images[request.param]


def test_an_image_is_within_its_bound(docker, image):
    target, name = image
    size = int(docker.docker("image", "inspect", "--format", "{{.Size}}", name))
    print(f"{target}: {size / 1e6:.0f} MB")
    assert size < BOUNDS[target]


def test_its_labels_say_what_it_is_and_of_which_revision(docker, image):
    labels = json.loads(docker.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image[1]))
    prefix = "org.opencontainers.image"
    assert (labels[f"{prefix}.version"], labels[f"{prefix}.revision"]) == (VERSION, REVISION)
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"
    assert labels[f"{prefix}.title"] and labels[f"{prefix}.description"]


def test_it_runs_as_a_user_without_rights_and_stops_at_sigterm(docker, image):
    config = json.loads(docker.docker("image", "inspect", "--format", "{{json .Config}}", image[1]))
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert config["Entrypoint"][:2] == ["tini", "--"]


def test_there_is_no_compiler_and_no_pip_in_it(docker, image):
    find = "for name in gcc cc g++ c++ clang ld as make pip pip3 uv; do command -v $name; done; python -m pip --version"
    found = docker.docker("run", "--rm", "--entrypoint", "sh", image[1], "-c", f"{find} 2>/dev/null || true")
    assert found == ""


def test_every_package_is_of_the_version_that_the_lock_says(docker, cpu):
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    installed = {
        _normal(line) for line in docker.docker("run", "--rm", "--entrypoint", "python", cpu, "-c", program).split()
    }
    locked = {_normal(line.split()[0]) for line in _lines("native.txt") if "==" in line}
    ours = {name for name in installed if name.startswith("regnetx-client==")}
    assert len(ours) == 1
    assert installed - ours <= locked


def test_a_change_of_the_source_rebuilds_small_layers_alone(docker, images, tmp_path):
    images["cpu"]
    before = _layers(docker, "regnetx-verify/cpu")
    context = tmp_path / "changed"
    for part in ("client", "docker", "requirements", "service", "serving_models"):
        shutil.copytree(ROOT / part, context / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("config.yml", ".dockerignore"):
        shutil.copy(ROOT / file, context / file)
    with (context / "service/errors.py").open("a") as source:
        source.write("# a change\n")
    docker.docker("tag", "regnetx-verify/cpu", "regnetx-verify/cpu-before")
    try:
        images.build("cpu", context=str(context))
        after = _layers(docker, "regnetx-verify/cpu")
        sizes = docker.docker(
            "history", "--human=false", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", "regnetx-verify/cpu"
        )
    finally:
        docker.docker("tag", "regnetx-verify/cpu-before", "regnetx-verify/cpu")
        docker.docker("image", "rm", "regnetx-verify/cpu-before")
    same = sum(1 for one, other in zip(before, after, strict=True) if one == other)
    assert before != after
    # Layers are listed from the bottom: all that are equal come first, and the environment is among them.
    assert before[:same] == after[:same]
    changed = [int(line.split()[0]) for line in reversed(sizes.splitlines()) if int(line.split()[0])][same:]
    assert sum(changed) < 30_000_000
    assert "/opt/venv" not in "".join(line for line in sizes.splitlines()[: len(changed)])


def _layers(docker, image):
    return json.loads(docker.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))


def _lines(name):
    return (ROOT / "requirements" / name).read_text().splitlines()


def _normal(requirement):
    name, _, version = requirement.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version}"
