"""Who is trusted, and how a caller shows who it is: files of certificates, and a token; imports no grpc."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Union

import httpx

PathLike = Union[str, "os.PathLike[str]"]
TOKEN_VARIABLE = "REGNETX_TOKEN"
AUTHORIZATION = "authorization"

# RFC 6750, 2.1; nothing in it can end a header
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


def authorization(token: str | None, given: Mapping[str, str] | None) -> dict[str, str]:
    """The header of a token, or of the environment's where it is None; none where ``given`` has that header already.

    Raises ValueError, which does not hold it, for a token that is none.
    """
    if token is None and any(name.lower() == AUTHORIZATION for name in given or ()):
        return {}
    shown = os.environ.get(TOKEN_VARIABLE) if token is None else token
    if not shown:
        if token is None:
            return {}
        raise ValueError("the token is empty")
    if not _TOKEN.fullmatch(shown):
        whose = f"of {TOKEN_VARIABLE} " if token is None else ""
        raise ValueError(f"the token {whose}has characters that no token has: letters, digits and -._~+/= are accepted")
    return {AUTHORIZATION: f"Bearer {shown}"}


def token_from(path: PathLike) -> str:
    """The token that a file holds; raises OSError, and ValueError for a file that holds none."""
    token = Path(path).read_text(encoding="utf-8", errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{os.fspath(path)} holds no token: one, of letters, digits and -._~+/=, is accepted")
    return token


def tls_context(ca: PathLike | None, cert: PathLike | None, key: PathLike | None) -> ssl.SSLContext | None:
    """For HTTPS; None where nothing is given. Raises OSError or ValueError for files that cannot be used."""
    check_files(ca, cert, key)
    if ca is None and cert is None:
        return None
    try:
        context = httpx.create_ssl_context() if ca is None else ssl.create_default_context(cafile=os.fspath(ca))
    except ssl.SSLError:
        raise ValueError(f"ca {os.fspath(ca or '')!r} holds no certificates in PEM") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except ssl.SSLError as error:
            raise ValueError(f"cert {os.fspath(cert)!r} and its key do not work together: {error.reason}") from None
    return context


def check_files(ca: PathLike | None, cert: PathLike | None, key: PathLike | None) -> None:
    """Raises ValueError for a key without its certificate, and OSError for a file that cannot be read."""
    if key is not None and cert is None:
        raise ValueError("key is given and cert is not")
    for path in (ca, cert, key):
        if path is not None:
            with open(path, "rb"):
                pass


def _no_password() -> str:
    raise ValueError("the key of cert is locked with a password: one without is accepted")
