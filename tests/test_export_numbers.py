"""What is written is what was read, and its scores are the source's; where they are not, nothing is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import model_files
import numpy as np
import paddle
import pytest

from service.errors import ModelError
from serving_models import paddle_runtime, serving_model
from serving_models.__main__ import main

SCORES = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)


def refused(layer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, status: int = 2) -> str:
    """Export the weights of a network, which must not come to be; the line that says so."""
    source = model_files.save_weights(layer, tmp_path / "w.pdparams")
    assert main(["export", str(source), "--to", str(tmp_path / "models"), "--image-size", "32"]) == status
    assert not list((tmp_path / "models").iterdir())
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_weights_that_paddle_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = model_files.small_network()
    variance = layer.state_dict()["conv._batch_norm._variance"]
    variance.set_value(-paddle.ones_like(variance))

    assert "w.pdparams: Paddle cannot run what was made of it: (InvalidArgument)" in refused(layer, tmp_path, capsys)


def test_weights_whose_scores_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = model_files.small_network()
    layer.out.weight.set_value(paddle.full_like(layer.out.weight, 3e38))

    assert "w.pdparams: its scores of random images are not finite numbers" in refused(layer, tmp_path, capsys)


def test_what_is_written_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_another(network: Any, folder: Path, **size: int) -> None:
        network.out.bias.set_value(network.out.bias + 1e-6)
        paddle_runtime.save_inference_model(network, folder, **size)

    monkeypatch.setattr(serving_model, "save_inference_model", save_another)

    line = refused(model_files.small_network(), tmp_path, capsys, status=1)
    assert "inference.pdiparams: what was written is not what is read back" in line


def test_scores_that_agree_are_compared_by_their_largest_difference() -> None:
    assert serving_model.compare(SCORES, SCORES + np.float32(1e-7), Path("source")) == pytest.approx(1e-7, rel=0.3)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (SCORES + np.float32(1e-2), "source: the exported model's scores differ from the source's by up to 0.01"),
        (SCORES[:1], r"source: its scores are \(2, 2\), where the export's are \(1, 2\)"),
        (SCORES * np.float32(np.nan), "source: the exported model's scores differ from the source's by up to nan"),
    ],
)
def test_scores_that_differ_stop_the_export(found: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        serving_model.compare(SCORES, found, Path("source"))
