"""A target and a seed -> cases checked one after the other, and findings: inputs that broke a promise."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.registry import OF_A_SERVICE, target_named
from fuzz.targets import Target, case_number, kept

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
BATCH_SECONDS = 60  # far above what a batch takes on a busy machine
SETTLE_BATCHES = 10
ALIKE = 3  # findings that are kept of one kind


@dataclass
class Finding:
    """One case and what went wrong; ``number`` is its place in the run."""

    target: str
    seed: int
    number: int
    case: bytes
    text: str

    @property
    def kind(self) -> str:
        """What findings of one cause have in common: the place that raised, and the type of the error."""
        places = re.findall(r'File "[^"]*?((?:service|serving_models|client)/[^"]*", line \d+)', self.text)
        last = self.text.strip().splitlines()[-1] if self.text.strip() else "nothing"
        return f"{places[-1] if places else ''} {re.sub(r'[0-9]+', 'N', last)[:60]}"


@dataclass
class Outcome:
    """What a run did."""

    cases: int = 0
    findings: list[Finding] = field(default_factory=list)


class Worker:
    """The other process, started when it is needed and started again when it has died or hung."""

    def __init__(self, name: str, model: Path, folder: Path) -> None:
        self._name, self._model, self._folder = name, model, folder
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, cases: list[bytes]) -> str | None:
        """What went wrong, if anything."""
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        parts = [struct.pack("<I", len(cases)), *(struct.pack("<I", len(case)) + case for case in cases)]
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"".join(parts))
            self._process.stdin.flush()
        return self._answer(BATCH_SECONDS)

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests"), str(ROOT / "client")))
        with (self._folder / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "fuzz.worker", self._name, str(self._model), str(folder)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        if (answer := self._answer(START_SECONDS)) != "ready":
            raise RuntimeError(f"the process that checks {self._name} did not start: {answer}")

    def _answer(self, seconds: float) -> str | None:
        assert self._process is not None and self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if readable else b""
        if line:
            answer: str | None = json.loads(line)
            return answer
        code = self._process.wait(10) if readable else None
        self.end()
        said = (self._folder / "said").read_text(errors="replace")[-3000:]
        return f"{said}\nno answer within {seconds} s" if code is None else f"{said}\nthe process ended with {code}"


@contextlib.contextmanager
def checking(target: Target, model: Path) -> Iterator[Callable[[list[bytes]], str | None]]:
    """A function that checks cases where they belong: in a bounded process, or here against a service."""
    with tempfile.TemporaryDirectory(prefix="regnetx-fuzz-") as folder:
        if target.name in OF_A_SERVICE:
            try:
                target.open(Path(folder))
                yield lambda cases: told(lambda: target.check(cases))
            finally:
                target.close()
            return
        worker = Worker(target.name, model, Path(folder))
        try:
            yield worker.check
        finally:
            worker.end()


def told(check: Callable[[], None]) -> str | None:
    """What it raised, if anything."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def run(
    name: str,
    model: Path,
    *,
    seed: int,
    seconds: float = float("inf"),
    cases: float = float("inf"),
    found: Callable[[Finding], None] = lambda finding: None,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Until so many seconds have passed or cases were checked; the same seed makes the same cases."""
    target = target_named(name, model)
    seeds = [*kept(name), *target.seeds()]
    outcome, kinds = Outcome(), dict[str, int]()
    give_up = time.monotonic() + seconds
    with checking(target, model) as check:
        batches = 0
        while time.monotonic() < give_up and outcome.cases < cases:
            numbers = range(outcome.cases, outcome.cases + target.batch)
            batch = [case_number(target, seed, number, seeds) for number in numbers]
            outcome.cases += len(batch)
            batches += 1
            text = check(batch)
            if text is None and batches % SETTLE_BATCHES == 0:
                text = told(target.settle)
            if text is not None:
                for finding in _guilty(check, target, Finding(name, seed, numbers[0], batch[0], text), batch):
                    kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
                    if kinds[finding.kind] <= ALIKE:
                        outcome.findings.append(finding)
                        found(finding)
            progress(outcome)
        if (text := told(target.settle)) is not None:
            outcome.findings.append(Finding(name, seed, outcome.cases, b"", text))
            found(outcome.findings[-1])
    return outcome


def _guilty(
    check: Callable[[list[bytes]], str | None], target: Target, together: Finding, batch: list[bytes]
) -> list[Finding]:
    """The cases of a batch that fail alone; the whole batch, as one, where none does."""
    alone = []
    for place, case in enumerate(batch):
        text = check([case]) or told(target.settle)
        if text is not None:
            alone.append(Finding(together.target, together.seed, together.number + place, case, text))
    return alone or [together]
