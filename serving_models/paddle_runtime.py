"""Paddle's part: a network -> an inference model on disk; an inference model and images -> scores."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import inference
from paddle.base.proto import framework_pb2 as program_format
from paddle.pir_utils import OldIrGuard

__all__ = [
    "PADDLE_VERSION",
    "Images",
    "Scores",
    "network_scores",
    "program_format",
    "program_scores",
    "reproducible_names",
    "save_inference_model",
    "softmax",
]

PADDLE_VERSION: str = paddle.__version__
INPUT_NAME = "x"
_RUN_AT_ONCE = 4

Images = npt.NDArray[np.float32]  # (n, 3, height, width)
Scores = npt.NDArray[np.float32]  # (n, classes)


class _WithSoftmax(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return paddle.nn.functional.softmax(self.network(x))


def reproducible_names() -> AbstractContextManager[None]:
    """Within it variables are numbered from 0, not within the process: a program is a function of its network."""
    names: AbstractContextManager[None] = paddle.utils.unique_name.guard()
    return names


def save_inference_model(network: Any, folder: Path, *, height: int, width: int) -> None:
    """Write ``inference.pdmodel`` and ``inference.pdiparams``: images of one size in, class probabilities out.

    The old program format, which every Paddle from 2.0 on loads. Paddle does not notice a full disk: read them back.
    """
    layer = _WithSoftmax(network)
    layer.eval()
    images = paddle.static.InputSpec([None, 3, height, width], "float32", name=INPUT_NAME)
    with OldIrGuard(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.jit.save(layer, str(folder / "inference"), input_spec=[images])
    (folder / "inference.pdiparams.info").unlink(missing_ok=True)
    _forget_call_stacks(folder / "inference.pdmodel")


def _forget_call_stacks(program_file: Path) -> None:
    """Paddle notes for each operator which Python lines made it: paths of this machine, no part of the model."""
    program = program_format.ProgramDesc.FromString(program_file.read_bytes())
    for operator in (operator for block in program.blocks for operator in block.ops):
        kept = [attribute for attribute in operator.attrs if attribute.name != "op_callstack"]
        del operator.attrs[:]
        operator.attrs.extend(kept)
    program_file.write_bytes(program.SerializeToString(deterministic=True))


def network_scores(network: Any, images: Images) -> Scores:
    """Class probabilities of the network itself, before any export."""
    network.eval()
    with paddle.no_grad():
        logits = [network(paddle.to_tensor(part)).numpy() for part in _parts(images)]
    return softmax(np.concatenate(logits))


def program_scores(program: Path, params: Path | None, images: Images) -> Scores:
    """The one output of an inference model on disk, run by Paddle Inference on the CPU.

    Without ``params``: a ``__model__`` with each parameter in a file of its own beside it.
    """
    config = inference.Config(str(program), str(params)) if params else inference.Config(str(program.parent))
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_mkldnn()
    predictor = inference.create_predictor(config)
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    fetch_name = predictor.get_output_names()[0]
    outputs = []
    for part in _parts(images):
        feed.copy_from_cpu(part)
        predictor.run()
        outputs.append(predictor.get_output_handle(fetch_name).copy_to_cpu())
    return np.concatenate(outputs)


def softmax(logits: Scores) -> Scores:
    """Along the last axis; the maximum is subtracted first, so that no logit is too large."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def _parts(images: Images) -> list[Images]:
    return [np.ascontiguousarray(images[i : i + _RUN_AT_ONCE]) for i in range(0, len(images), _RUN_AT_ONCE)]
