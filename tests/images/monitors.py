"""The images of compose.yaml's profile "monitoring": from their registry, or for Prometheus Debian's program in one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from building import Images
from command import attempt
from containers import ROOT
from engine import Engine

SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PROMETHEUS, GRAFANA = (
    SERVICES[name]["image"].partition(":-")[2].removesuffix("}") for name in ("prometheus", "grafana")
)
STAND_IN = "regnetx-verify/prometheus:stand-in"
# As the real image: the programs in /bin, and a folder for data that belongs to nobody, which a new volume takes over.
DOCKERFILE = """FROM {base}
COPY prometheus promtool /bin/
RUN mkdir /prometheus && chown 65534:65534 /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""


def prometheus_image(engine: Engine, images: Images) -> str:
    """The one that compose.yaml names, or a stand-in. The test is skipped where neither can be had."""
    if _is_here(engine, PROMETHEUS):
        return PROMETHEUS
    if not engine.answers("image", "inspect", STAND_IN):
        _make(engine, images.base_arguments()["PYTHON_IMAGE"])
        images[STAND_IN] = STAND_IN  # removed with the others
    return STAND_IN


def grafana_image(engine: Engine) -> str:
    """The one that compose.yaml names; nothing can stand in for it."""
    if not _is_here(engine, GRAFANA):
        pytest.skip(f"the dashboard is NOT loaded into Grafana: {GRAFANA} cannot be pulled here")
    return GRAFANA


def _is_here(engine: Engine, image: str) -> bool:
    return engine.answers("image", "inspect", image) or engine.answers("pull", "--quiet", image, seconds=300)


def _make(engine: Engine, base: str) -> None:
    found = attempt("sh", ROOT / "requirements/prometheus.sh", Path(sys.prefix) / "prometheus", seconds=300)
    if found.returncode:
        pytest.skip(f"Prometheus in a container is NOT verified: {found.stderr.strip()}")
    with tempfile.TemporaryDirectory(prefix="regnetx-prometheus-", dir="/var/tmp") as folder:
        for program in ("prometheus", "promtool"):
            shutil.copy2(Path(found.stdout.strip()) / program, folder)
        (Path(folder) / "Dockerfile").write_text(DOCKERFILE.format(base=base))
        engine.docker("build", "--quiet", "--tag", STAND_IN, folder, seconds=300)
