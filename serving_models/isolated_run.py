"""An inference model -> its scores for random images, run in a process of its own: damaged programs kill Paddle."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import ModelError
from serving_models.inference_model import InferenceModelFiles

_TIMEOUT = 900  # seconds; RegNetX_32GF takes some ten on two cores
_REASON_LENGTH = 300


def random_images(count: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """Normalised noise, (count, 3, height, width), the same in every process."""
    return np.random.default_rng(0).normal(size=(count, 3, height, width)).astype(np.float32)


def isolated_scores(files: InferenceModelFiles, *, count: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """What the model answers to ``random_images``.

    Raises ModelError where Paddle refuses the program, dies of it or does not come to an end.
    """
    params = str(files.params) if files.params else ""
    command = [sys.executable, "-m", __name__, str(files.program), params, str(count), str(height), str(width)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{files.program}: Paddle did not come to an end with it in {_TIMEOUT} s") from None
    if done.returncode:
        raise ModelError(f"{files.program}: Paddle {_end(done)}")
    scores: npt.NDArray[np.float32] = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return scores


def _end(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"crashed on it (signal {-done.returncode}), it must be damaged"
    # Its messages run over many lines, the reason comes last.
    return f"cannot run it: … {' '.join(done.stderr.decode(errors='replace').split())[-_REASON_LENGTH:]}"


def _main(program: str, params: str, *shape: str) -> None:
    # Late: those who only start this process need no Paddle for it.
    from serving_models.paddle_runtime import program_scores

    answer = sys.stdout.buffer
    # What Paddle's library prints must not mix with the answer.
    with os.fdopen(os.dup(answer.fileno()), "wb") as pipe:
        os.dup2(sys.stderr.fileno(), answer.fileno())
        scores = program_scores(Path(program), Path(params) if params else None, random_images(*map(int, shape)))
        buffer = io.BytesIO()  # np.save wants to seek
        np.save(buffer, scores)
        pipe.write(buffer.getvalue())


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except Exception as error:
        sys.exit(str(error))
