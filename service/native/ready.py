"""What the service says on standard output: where its doors are and a request to paste."""

import os
from pathlib import Path

from service.config import Config
from service.ops.model import Model

SAMPLES = Path(__file__).parents[2] / "serving_models/bundled/digits/samples"


def announce(config: Config, model: Model, http_port: int | None, rpc_port: int | None) -> None:
    """Print the ready line and, where there is an HTTP door, a ``curl`` command."""
    host = _reachable(config.native.host)
    url = f"http://{host}:{http_port}/{config.service_name}/prediction"
    doors = [f"POST {url}"] if http_port else []
    doors += [f"gRPC {host}:{rpc_port}"] if rpc_port else []
    print(f"ready: {model.name} ({model.architecture}, {model.classes} classes) at {' and '.join(doors)}", flush=True)
    if http_port:
        print(f"try: {_curl(url, _sample(model))}", flush=True)


def announce_admin(config: Config, port: int) -> None:
    """Print where metrics and health are, which is before anything is loaded."""
    print(f"admin: http://{_reachable(config.admin_host)}:{port} has /metrics, /healthz and /readyz", flush=True)


def _reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _sample(model: Model) -> Path:
    """A file that this model can say something sensible about."""
    samples = sorted(SAMPLES.glob("*.png")) if model.name == "digits" else []
    return Path(os.path.relpath(samples[0])) if samples else Path("photo.jpg")


def _curl(url: str, image: Path) -> str:
    # printf is built into the shell, so the size of the image is not bounded by the length of a command line.
    body = """printf '{"key":["image"],"value":["%s"]}' "$(base64 -w0 FILE)" """.replace("FILE", str(image))
    return f"{body}| curl -s {url} --data-binary @-"
