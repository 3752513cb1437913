"""An overlay, or an overlay with components -> the documents that kubectl would apply."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from service.config import Config, load_config

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
TOOLS = Path(sys.prefix) / "bin"
# What the images themselves set; test_image.py holds it against docker/Dockerfile.
IMAGE_ENVIRONMENT = {
    "server": {"REGNETX__NATIVE__HOST": "0.0.0.0"},
    "gpu": {"REGNETX__OP__LOCAL_SERVICE_CONF__DEVICE_TYPE": "1"},
    "cpu": {},
}

HARDWARE = ("cpu", "gpu", "mig")
MODELS = ("", "model-fetch", "model-image", "model-claim")
SCALERS = ("", "hpa", "keda")
# What the user of components/model-fetch writes.
FETCHED = {"url": "https://models.example/digits.tar.gz", "sha256": "0" * 64}


@dataclass(frozen=True)
class Choice:
    """An overlay and the components that are laid over it."""

    overlay: str
    components: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.overlay, *self.components))


OVERLAYS = [Choice(path.name) for path in sorted((K8S / "overlays").iterdir())]
CHOICES = [
    *OVERLAYS,
    *(
        Choice(hardware, tuple(filter(None, (model, scaler))))
        for hardware, model, scaler in product(HARDWARE, MODELS, SCALERS)
        if model or scaler
    ),
    *(Choice("autoscale", (model,)) for model in MODELS if model),
    *(Choice(overlay, ("monitoring",)) for overlay in ("autoscale", "gpu", "mig")),
]


def kustomize(folder: Path) -> str:
    """What kubectl makes of a folder. Raises ValueError with its words where it refuses it."""
    command = [TOOLS / "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return done.stdout


def render(choice: Choice, k8s: Path) -> Manifests:
    """The documents of a choice, from ``k8s`` or a copy of it. Raises ValueError."""
    if not choice.components:
        return Manifests.parse(choice, kustomize(k8s / "overlays" / choice.overlay))
    # Beside the others, for kustomize takes relative paths only; as a user's own overlay would be.
    with tempfile.TemporaryDirectory(dir=k8s.parent) as folder:
        near = Path(folder) / "kustomization.yaml"
        near.write_text(yaml.safe_dump(overlay_of(choice, os.path.relpath(k8s, folder))))
        return Manifests.parse(choice, kustomize(near.parent))


def overlay_of(choice: Choice, k8s: str) -> dict[str, Any]:
    overlay: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{k8s}/overlays/{choice.overlay}"],
        "components": [f"{k8s}/components/{component}" for component in choice.components],
    }
    if "model-fetch" in choice.components:
        literals = [f"{key}={value}" for key, value in FETCHED.items()]
        overlay["namespace"] = "regnetx"
        overlay["configMapGenerator"] = [{"name": "regnetx-model", "literals": literals}]
    return overlay


@dataclass(frozen=True)
class Manifests:
    """The documents of one choice, and what is often asked of them."""

    choice: Choice
    documents: tuple[dict[str, Any], ...]

    @classmethod
    def parse(cls, choice: Choice, text: str) -> Manifests:
        return cls(choice, tuple(document for document in yaml.safe_load_all(text) if document))

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [document for document in self.documents if document["kind"] in kinds]

    def has(self, kind: str, name: str) -> bool:
        return any(document["metadata"]["name"] == name for document in self.of(kind))

    @property
    def deployment(self) -> dict[str, Any]:
        [deployment] = self.of("Deployment")
        return deployment

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec."""
        spec: dict[str, Any] = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def pod_labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.deployment["spec"]["template"]["metadata"].get("labels", {})
        return labels

    @property
    def server(self) -> dict[str, Any]:
        """The container that serves."""
        [server] = self.pod["containers"]
        return dict(server)

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        return {volume["name"]: volume for volume in self.pod.get("volumes", [])}

    @property
    def autoscalers(self) -> list[dict[str, Any]]:
        return self.of("HorizontalPodAutoscaler", "ScaledObject")

    @cached_property
    def config(self) -> Config:
        """What the service makes of the mounted file and the container's environment. Raises ConfigError."""
        environment = IMAGE_ENVIRONMENT["server"] | IMAGE_ENVIRONMENT.get(self.server["image"].rpartition("-")[2], {})
        environment |= {variable["name"]: variable.get("value", "") for variable in self.server.get("env", [])}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yml"
            file.write_text(self._mounted(self.server["args"][self.server["args"].index("--config") + 1]))
            return load_config(file, environment)

    def _mounted(self, path: str) -> str:
        """The text that the container finds at a path: a key of the ConfigMap that is mounted there."""
        folder, _, key = path.rpartition("/")
        names = [mount["name"] for mount in self.server["volumeMounts"] if mount["mountPath"] == folder]
        maps = [self.volumes[name]["configMap"]["name"] for name in names if name in self.volumes]
        texts = [each["data"][key] for each in self.of("ConfigMap") if each["metadata"]["name"] in maps]
        if len(texts) != 1:
            raise ValueError(f"{path}: {len(texts)} ConfigMaps are mounted there")
        return str(texts[0])
