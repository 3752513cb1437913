"""A config.yml and an environment -> load_config: a Config, or ConfigError with a short line for each fault."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzz.mutation import TEXTS, changed_value, mutated
from fuzz.targets import BrokenPromiseError, Target

from service.config import load_config, settings
from service.errors import ConfigError

ROOT = Path(__file__).parents[2]
MARK = b"\n--environment--\n"  # between the file and lines of NAME=value
LONGEST = 3000  # characters of a line; the longest lists every variable that there is
ODD_YAML = (
    *("!!int ''", "!!bool x", "!!float ''", "!!timestamp x", "!!binary x", "!!set {a, b}", "!!python/name:os.system"),
    *("&a [*a]", "*missing", "2001-13-45", "{<<: 1}", "{<<: [1]}", "? [1]\n: 2", "[[[[", "{a: 1, a: 2}", "1e999"),
    *(".nan", "0x", f"0x{'f' * 5000}", "190:20:30", "9" * 5000, '"\\uD800"', "|\n a", "!<tag:x> y"),
    *("%YAML 9", "---\n---", "\t"),
)


class ConfigTarget(Target):
    """The configuration as ``service`` reads it."""

    name = "config"
    batch = 16

    def seeds(self) -> list[bytes]:
        return [
            (ROOT / "config.yml").read_bytes() + MARK,
            b"http_port: 0\nop: {a: {local_service_conf: {model_config: m}}}",
        ]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        text, _, environment = random.choice(seeds).partition(MARK)
        way = random.randrange(4)
        if way == 0:
            text = mutated(text, random, seeds)
        elif way == 1:
            text = self._odd(text, random)
        elif way == 2:
            text = self._changed(text, random)
        if way == 3 or random.random() < 0.2:
            environment = b"\n".join(self._variable(random) for _ in range(random.choice((1, 1, 2, 5))))
        return text + MARK + environment

    def _odd(self, text: bytes, random: Random) -> bytes:
        """One value of the file becomes something that YAML has and nobody writes."""
        lines = text.splitlines()
        place = random.randrange(len(lines)) if lines else 0
        key = lines[place].partition(b":")[0] if lines else b"a"
        lines[place : place + 1] = [key + b": " + random.choice(ODD_YAML).encode()]
        return b"\n".join(lines)

    def _changed(self, text: bytes, random: Random) -> bytes:
        try:
            value: Any = yaml.safe_load(text)
            for _ in range(random.choice((1, 1, 2, 4))):
                value = changed_value(value, random)
            return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
        except Exception:  # seeds from the corpus are no YAML, and not every text can be written as YAML
            return mutated(text, random)

    def _variable(self, random: Random) -> bytes:
        name = random.choice([setting.variable for setting in settings()])
        if random.random() < 0.1:
            name = "REGNETX__" + mutated(name.encode(), random).decode("utf-8", "replace")
        value = random.choice((*ODD_YAML, *TEXTS, "1", "true", "0", "-1"))
        return f"{name}={value}".encode("utf-8", "replace").replace(b"\0", b"").replace(b"\n", b" ")

    def open(self, folder: Path) -> None:
        self._file = folder / "config.yml"

    def check(self, cases: list[bytes]) -> None:
        for case in cases:
            text, _, lines = case.partition(MARK)
            self._file.write_bytes(text)
            try:
                load_config(self._file, _environment(lines))
            except ConfigError as error:
                self._check_message(str(error))

    def _check_message(self, text: str) -> None:
        for line in text.split("\n"):
            begins = line.startswith((f"{self._file}: ", "environment: ")) or "(while setting REGNETX__" in line
            if not begins or len(line) > LONGEST or not line.isprintable():
                raise BrokenPromiseError(f"a message that is no short line about a key: {line[:300]!r}")


def _environment(lines: bytes) -> dict[str, str]:
    pairs = (line.decode("utf-8", "surrogateescape").partition("=") for line in lines.split(b"\n"))
    return {name: value for name, _, value in pairs if name}
