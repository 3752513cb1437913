"""What the service says on standard output: where its doors are and a request to paste."""

import os
from pathlib import Path

from service.config import Config, Native
from service.native.tokens import VARIABLE
from service.ops.model import Model

SAMPLES = Path(__file__).parents[2] / "serving_models/bundled/digits/samples"


def announce(config: Config, model: Model, precision: str, http_port: int | None, rpc_port: int | None) -> None:
    """Print the ready line and, where there is an HTTP door, a ``curl`` command.

    ``precision``: in words, which are left out for fp32.
    """
    host = _reachable(config.native.host)
    tls = config.native.tls_certificate is not None
    url = f"{'https' if tls else 'http'}://{host}:{http_port}/{config.service_name}/prediction"
    doors = [f"POST {url}"] if http_port else []
    doors += [f"gRPC {host}:{rpc_port}{' (TLS)' if tls else ''}"] if rpc_port else []
    facts = [model.architecture, f"{model.classes} classes", *([precision] if precision != "fp32" else [])]
    print(f"ready: {model.name} ({', '.join(facts)}) at {' and '.join(doors)}", flush=True)
    if http_port:
        print(f"try: {_curl(url + _credentials(config.native), _sample(model))}", flush=True)


def announce_admin(config: Config, port: int) -> None:
    """Print where metrics and health are, which is before anything is loaded."""
    print(f"admin: http://{_reachable(config.admin_host)}:{port} has /metrics, /healthz and /readyz", flush=True)


def _credentials(native: Native) -> str:
    """What curl needs besides; the callers' files are not known here."""
    text = " --cacert CA.pem" if native.tls_certificate else ""
    text += " --cert CLIENT.pem --key CLIENT.key" if native.tls_client_ca else ""
    return text + (' -H "Authorization: Bearer $TOKEN"' if native.tokens_file or VARIABLE in os.environ else "")


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
