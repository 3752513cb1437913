"""A YAML file and the environment -> the raw values of a configuration, not yet checked."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from service.errors import ConfigError, short, shown

# Two underscores, because Kubernetes sets REGNETX_PORT and its like for a Service that is named regnetx.
ENVIRONMENT_PREFIX = "REGNETX__"
# What PyYAML's constructors raise, beside its own errors, over !!int '', !!bool x, !!timestamp x and 2001-13-45
STUMBLES = (ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True)
class Setting:
    """One key of the configuration; ``*`` in its path stands for the name of the op."""

    path: tuple[str, ...]
    is_text: bool  # its value is a string, whatever it looks like (devices: "0")

    @property
    def variable(self) -> str:
        """Its environment variable: ``op.regnet.batch_size`` is ``REGNETX__OP__BATCH_SIZE``."""
        return ENVIRONMENT_PREFIX + "__".join(part for part in self.path if part != "*").upper()


def is_http_address(text: str) -> bool:
    """Whether a text is an address of a server that speaks HTTP."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which no key is written twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value} is written twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that the file holds. Raises ConfigError if there is no such file or it holds no mapping."""
    try:
        values = yaml.load(path.read_bytes(), _UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; accepted: a readable YAML file") from None
    except (yaml.YAMLError, RecursionError, *STUMBLES) as error:
        raise ConfigError(f"{path}: not YAML: {short(' '.join(str(error).split()))}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: {type(values).__name__} at the top; accepted: keys and values, such as http_port: 1"
        )
    return values


def lay_over(values: dict[str, Any], environment: Mapping[str, str], *, settings: Sequence[Setting]) -> dict[str, Any]:
    """``values`` with each ``REGNETX__…`` variable in its place. Raises ConfigError for one that is unknown."""
    known = {setting.variable: setting for setting in settings}
    for variable in sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX)):
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; accepted: {', '.join(known)}"
            raise ConfigError(f"environment: {short(variable)}: unknown variable{hint}")
        _put(values, known[variable], environment[variable])
    return values


def _put(values: dict[str, Any], setting: Setting, text: str) -> None:
    *parents, last = setting.path
    target = values
    for part in parents:
        name = next(iter(target), "regnet") if part == "*" else part
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"{short(str(name))}: {shown(target)} is not accepted; accepted: a mapping"
                f" (while setting {setting.variable})"
            )
    target[last] = text if setting.is_text else _scalar(setting, text)


def _scalar(setting: Setting, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, *STUMBLES):
        raise ConfigError(f"environment: {setting.variable}: {text[:80]!r} is not a YAML value") from None
