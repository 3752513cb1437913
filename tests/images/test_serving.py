"""What a container of the CPU image answers, and with whose model and configuration."""

from __future__ import annotations

import json

import yaml
from containers import HARDENED, ROOT, SEVEN, running, serving

MODEL = "REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG"


def test_it_answers_over_http_with_nothing_mounted(service):
    assert service.label() == "['seven']"


def test_it_answers_over_grpc_through_the_published_port(docker, cpu, service):
    """The client is the one in the image, on the network of this machine."""
    said = docker.docker(
        "run", "--rm", "--label", "regnetx-verify", "--network", "host", "--volume", f"{SEVEN}:/seven.png:ro",
        "--entrypoint", "regnetx", cpu, "predict", "/seven.png", "--grpc", "--address", service.address(9993), "--json",
    )  # fmt: skip
    assert '"label": "seven"' in said


def test_a_model_of_the_users_is_served_from_models(docker, cpu, models):
    (models / "mine/labels.txt").write_text("".join(f"my {number}\n" for number in range(10)))
    facts = yaml.safe_load((models / "mine/model.yml").read_text())
    facts["name"] = "mine"
    (models / "mine/model.yml").write_text(yaml.safe_dump(facts))
    with serving(docker, cpu, f"--volume={models}:/models:ro", f"--env={MODEL}=/models/mine") as container:
        assert "ready: mine (" in container.logs()
        assert container.label() == "['my 7']"


def test_a_configuration_of_the_users_takes_the_place_of_the_images_own(docker, cpu, models, tmp_path):
    """Its model, its name and its ports, and health is asked for at those."""
    config = yaml.safe_load((ROOT / "config.yml").read_text())
    [op] = config["op"].values()
    op["local_service_conf"]["model_config"] = "/models/mine/serving_server"
    config.update({"op": {"imagenet": op}, "http_port": 8080})
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o644)
    mounts = (f"--volume={models}:/models:ro", f"--volume={file}:/app/config.yml:ro")
    with serving(docker, cpu, *mounts, "--publish=127.0.0.1::8080") as container:
        status, answer = container.ask("/imagenet/prediction", port=8080)
        assert (status, json.loads(answer)["value"][0]) == (200, "['seven']")


def test_a_service_without_http_is_healthy_by_its_grpc_door(docker, cpu, tmp_path):
    config = yaml.safe_load((ROOT / "config.yml").read_text())
    del config["http_port"]
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o644)
    options = (f"--volume={file}:/app/config.yml:ro", f"--env={MODEL}=/app/serving_models/digits")
    with serving(docker, cpu, *options) as container:
        assert container.health == "healthy"


def test_a_wrong_setting_ends_the_container_with_2_and_one_sentence(docker, cpu):
    with running(docker, cpu, *HARDENED, "--env=REGNETX__HTTP_PORT=eighty") as container:
        assert container.wait() == 2
        [line] = container.logs().splitlines()
        assert line.startswith("regnetx: ") and "http_port: 'eighty' is not accepted; accepted: " in line


def test_a_model_that_is_not_there_ends_it_in_the_same_way(docker, cpu):
    with running(docker, cpu, *HARDENED, f"--env={MODEL}=/models/other") as container:
        assert container.wait() == 2
        [line] = container.logs().splitlines()
        assert line.startswith("regnetx: /models/other: ")
