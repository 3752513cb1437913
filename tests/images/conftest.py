"""One engine, the images built once, and everything removed at the end, also after Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import Images
from containers import LABEL, Container, serving
from engine import CannotVerify, Engine, engine
from own_engine import EngineError

CANNOT_VERIFY = 3


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """The engine; where none can be had, the run ends with exit code 3 and the reason."""
    # So that an order to stop cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with engine() as found:
            yield found
            _remove_what_is_left(found)
    except (CannotVerify, EngineError) as error:
        pytest.exit(f"the images were NOT verified: {error}", returncode=CANNOT_VERIFY)


def _remove_what_is_left(engine: Engine) -> None:
    for kind, remove in (("container", ("rm", "--force")), ("network", ("rm",)), ("volume", ("rm",))):
        ids = engine.docker(
            kind, "ls", *(["--all"] if kind == "container" else []), "--quiet", "--filter", f"label={LABEL}"
        )
        for each in ids.split():
            engine.answers(kind, *remove, each)


@pytest.fixture(scope="session")
def images(docker: Engine) -> Iterator[Images]:
    """The images of docker/Dockerfile, each built when it is first asked for."""
    built = Images(docker)
    yield built
    built.remove()


@pytest.fixture(scope="session")
def cpu(images: Images) -> str:
    """The name of the CPU image."""
    return images["cpu"]


@pytest.fixture(scope="session")
def service(docker: Engine, cpu: str) -> Iterator[Container]:
    """A container of the CPU image for tests that leave it as it was."""
    with serving(docker, cpu) as container:
        yield container


@pytest.fixture(scope="session")
def stock_image(images: Images) -> str:
    """The name of the stock runtime's image; its tests are skipped where there is no Python 3.9 to make a base of."""
    try:
        return images["paddle-serving"]
    except LookupError as error:
        pytest.skip(f"the stock runtime's image is NOT verified: {error}")


@pytest.fixture(scope="session")
def gpu_image(images: Images) -> str:
    """The name of the GPU image, which is large: built with GPU=1 alone."""
    if os.environ.get("GPU") != "1":
        pytest.skip("the GPU image (7 GB) is NOT built without GPU=1")
    return images["gpu"]


@pytest.fixture
def models(tmp_path: Path, docker: Engine, cpu: str) -> Path:
    """A folder with a serving model in it, as a user has one: readable for all, written by somebody else."""
    folder = tmp_path / "models"
    folder.mkdir()
    created = docker.docker("create", cpu).strip()
    try:
        docker.docker("cp", f"{created}:/app/serving_models/digits", folder / "mine")
    finally:
        docker.docker("rm", created)
    folder.chmod(0o755)
    return folder
