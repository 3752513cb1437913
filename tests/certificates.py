"""An authority of one's own, made at test time with openssl, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=SECONDS)


def _key(path: Path) -> Path:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path))
    return path


def authority(folder: Path, name: str) -> Pair:
    """A certificate that signs others."""
    pair = Pair(folder / f"{name}.pem", _key(folder / f"{name}.key"))
    _openssl(
        "req", "-x509", "-key", str(pair.key), "-subj", f"/CN={name}", "-days", "2", "-out", str(pair.certificate),
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    return pair


def signed(folder: Path, name: str, by: Pair, *, usage: str = "serverAuth", days: int = 2) -> Pair:
    """A certificate for 127.0.0.1 and localhost. ``usage``: serverAuth or clientAuth; ``days`` -1: expired yesterday."""
    pair = Pair(folder / f"{name}.pem", _key(folder / f"{name}.key"))
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(
        f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\nkeyUsage=digitalSignature\n"
        "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _openssl("req", "-new", "-key", str(pair.key), "-subj", f"/CN={name}", "-out", str(request))
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(by.certificate), "-CAkey", str(by.key), "-CAcreateserial",
        "-days", str(days), "-extfile", str(extensions), "-out", str(pair.certificate),
    )  # fmt: skip
    return pair
