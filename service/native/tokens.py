"""Bearer tokens (RFC 6750): who may ask, from a file or the environment; the time of a look tells nothing of them."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.config import Native
from service.errors import ConfigError, UnauthenticatedError

VARIABLE = "REGNETX_TOKENS"  # not a key of the configuration: what is in force is printed, and tokens never are
SCHEME = "bearer"
ACCEPTED = "16 to 512 letters, digits and -._~+/=, after a name and a colon if you like"

_LINE = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64})\s*:\s*)?(?P<token>[A-Za-z0-9._~+/=-]{16,512})")


@dataclass(frozen=True)
class Tokens:
    """The tokens that are accepted, as digests, each with the name that the log may say."""

    known: tuple[tuple[str, bytes], ...] = field(repr=False)

    def name_of(self, authorizations: Sequence[str]) -> str:
        """The name of the one token that a request shows in ``authorization``. Raises UnauthenticatedError."""
        if not authorizations:
            raise UnauthenticatedError("authorization is missing; accepted: Bearer and a token")
        scheme, _, token = authorizations[0].partition(" ")
        shown = _digest(token.strip())
        found = ""
        for name, digest in self.known:  # all of them, whichever fits: the time says nothing of the place
            if hmac.compare_digest(digest, shown):
                found = name
        if not found or scheme.lower() != SCHEME or len(authorizations) > 1:
            raise UnauthenticatedError("the authorization is not accepted; accepted: Bearer and a token")
        return found


def read_tokens(native: Native, environment: Mapping[str, str]) -> Tokens | None:
    """Those of the file and of the environment together; None where neither is given: everybody may ask.

    Raises ConfigError, which never holds a token, for a file that cannot be read, for a line that holds none, and where
    a source is given and has none: it was meant to close the door.
    """
    if native.tokens_file is None and VARIABLE not in environment:
        return None
    known: list[tuple[str, bytes]] = []
    if native.tokens_file is not None:
        known += _parsed(f"native.tokens_file: {native.tokens_file}", _lines_of(native.tokens_file))
    if VARIABLE in environment:
        known += _parsed(f"environment: {VARIABLE}", re.split(r"[,\n]", environment[VARIABLE]))
    return Tokens(tuple(known))


def _lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"native.tokens_file: {path}: {reason}; accepted: a readable file, a token a line") from None


def _parsed(source: str, lines: Sequence[str]) -> list[tuple[str, bytes]]:
    found = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{source}: entry {number} is no token; accepted: {ACCEPTED}")
        found.append((match["name"] or f"token-{number}", _digest(match["token"])))
    if not found:
        raise ConfigError(f"{source} holds no token; accepted: one a line at least, {ACCEPTED}")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
