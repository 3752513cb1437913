"""What the service says once, when it answers requests: where it is and a request to paste."""

import os
from pathlib import Path

from service.config import Config
from service.ops.model import Model

SAMPLES = Path(__file__).parents[2] / "serving_models/bundled/digits/samples"


def announce(config: Config, model: Model, http_port: int | None, rpc_port: int | None) -> None:
    """Print the ready line and, where there is an HTTP door, a ``curl`` command."""
    url = f"http://{_host(config)}:{http_port}/{config.service_name}/prediction"
    doors = [f"POST {url}"] if http_port else []
    doors += [f"gRPC {_host(config)}:{rpc_port}"] if rpc_port else []
    print(f"ready: {model.name} ({model.architecture}, {model.classes} classes) at {' and '.join(doors)}", flush=True)
    if http_port:
        print(f"try: {_curl(url, _sample(model))}", flush=True)


def _host(config: Config) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.native.host, config.native.host)
    return f"[{host}]" if ":" in host else host


def _sample(model: Model) -> Path:
    """A file that this model can say something sensible about."""
    samples = sorted(SAMPLES.glob("*.png")) if model.name == "digits" else []
    return Path(os.path.relpath(samples[0])) if samples else Path("photo.jpg")


def _curl(url: str, image: Path) -> str:
    # printf is built into the shell, so the size of the image is not bounded by the length of a command line.
    body = """printf '{"key":["image"],"value":["%s"]}' "$(base64 -w0 FILE)" """.replace("FILE", str(image))
    return f"{body}| curl -s {url} --data-binary @-"
