"""What the manifests take for granted of the images is what docker/Dockerfile says."""

from __future__ import annotations

import re

import pytest
from rendering import IMAGE_ENVIRONMENT, K8S, ROOT, Choice, render

from service import __version__

STAGES = {
    name: text
    for text in re.split(r"^(?=FROM )", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    for name in re.findall(r"^FROM .* AS (\S+)", text)
}


def test_the_user_the_ports_and_the_command_are_those_of_the_image() -> None:
    manifests = render(Choice("cpu"), K8S)
    ports = {str(port["containerPort"]) for port in manifests.server["ports"]}
    context = manifests.pod["securityContext"]

    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in STAGES["runtime"]
    assert set(re.findall(r"^EXPOSE (.+)", STAGES["server"], re.MULTILINE)[0].split()) == ports
    assert re.search(r'^ENTRYPOINT \[.*"python", "-m", "service"\]$', STAGES["server"], re.MULTILINE)


@pytest.mark.parametrize("stage", IMAGE_ENVIRONMENT)
def test_the_environment_of_the_image_is_known_here(stage: str) -> None:
    found = dict(re.findall(r"\b(REGNETX__\w+)=(\S+)", STAGES[stage]))
    assert found == IMAGE_ENVIRONMENT[stage]


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_baked_model_is_where_the_configuration_looks_for_it(stage: str) -> None:
    path = render(Choice(stage), K8S).config.regnet.local_service_conf.model_config_
    folder = path.removesuffix("/serving_server")
    assert re.search(rf"^COPY --from=digits \S+ {re.escape(folder)}$", STAGES[stage], re.MULTILINE)


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_image_has_the_command_of_the_init_container(stage: str) -> None:
    assert "COPY --from=export-source /app /app\n" in STAGES[stage]


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_tags_are_of_this_version(stage: str) -> None:
    assert render(Choice(stage), K8S).server["image"] == f"regnetx-serving:{__version__}-{stage}"
