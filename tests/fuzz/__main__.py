"""Fuzz for as long as you like: ``make fuzz SECONDS=3600``, or ``python -m fuzz --help`` with tests/ on PYTHONPATH.

Every failing input goes to a file, with the command that checks it again. Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz.registry import NAMES, target_named
from fuzz.session import ROOT, Finding, Outcome, checking, run, told

FINDINGS = ROOT / "build/fuzz"  # ignored by git
EVERY_SECONDS = 10
DIGITS = ROOT / "serving_models/bundled/digits/RegNetX_200MF_digits.pdparams"


def main() -> int:
    """Run the targets one after the other, or one input again."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _export(Path(folder))
        if options.repeat:
            return _repeat(options.target[0], options.repeat, model)
        seed = secrets.randbelow(2**32) if options.seed is None else options.seed
        findings = 0
        for name in options.target:
            outcome = _fuzz(name, model, seed, options.seconds / len(options.target))
            findings += len(outcome.findings)
    return 1 if findings else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together; default: 600")
    parser.add_argument("--target", nargs="+", choices=NAMES, default=list(NAMES), help="default: all")
    parser.add_argument("--seed", type=int, help="of an earlier run, to make its cases again; default: a new one")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="check this input of --target again")
    parser.add_argument("--model", type=Path, metavar="serving_server", help="of the digits; default: exported now")
    options = parser.parse_args()
    if options.repeat and len(options.target) != 1:
        parser.error("--repeat needs --target with the one target that the input is of")
    return options


def _export(folder: Path) -> Path:
    command = [sys.executable, "-m", "serving_models", "export", str(DIGITS), "--name", "digits", "--to", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "digits/serving_server"


def _fuzz(name: str, model: Path, seed: int, seconds: float) -> Outcome:
    start = told = time.monotonic()

    def progress(outcome: Outcome) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= EVERY_SECONDS:
            told = now
            _say(name, outcome, now - start, seed)

    outcome = run(name, model, seed=seed, seconds=seconds, found=_keep, progress=progress)
    _say(name, outcome, time.monotonic() - start, seed)
    return outcome


def _say(name: str, outcome: Outcome, seconds: float, seed: int) -> None:
    rate = outcome.cases / seconds if seconds else 0
    print(
        f"{name}: {outcome.cases} cases in {seconds:.0f} s ({rate:.0f}/s), {len(outcome.findings)} findings, seed {seed}",
        flush=True,
    )


def _keep(finding: Finding) -> None:
    FINDINGS.mkdir(parents=True, exist_ok=True)
    file = FINDINGS / f"{finding.target}-{finding.seed}-{finding.number}"
    file.write_bytes(finding.case)
    file.with_suffix(".txt").write_text(finding.text)
    print(f"FOUND {finding.kind}\n{finding.text[-1500:]}", flush=True)
    print(f"  again: PYTHONPATH=.:tests python -m fuzz --target {finding.target} --repeat {file.relative_to(ROOT)}")


def _repeat(name: str, file: Path, model: Path) -> int:
    target = target_named(name, model)
    with checking(target, model) as check:
        text = check([file.read_bytes()]) or told(target.settle)
    print(text or "nothing found")
    return 1 if text else 0


if __name__ == "__main__":
    sys.exit(main())
