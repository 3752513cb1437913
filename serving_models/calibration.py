"""An ONNX model and images -> the same model in int8: scales of activations by the images, of weights by themselves.

The graph gets pairs of QuantizeLinear and DequantizeLinear (QDQ), which every runtime reads in its own way.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx

from serving_models.sample_images import Inputs

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # see service.engines

from onnxruntime import quantization  # type: ignore[import-untyped]
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType  # type: ignore[import-untyped]

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Softmax is left out: its result is the answer, and would have 256 values.
QUANTISED = ["Conv", "Add", "Relu", "GlobalAveragePool", "Gemm"]

# (first, last) -> one batch after the other
Batches = Callable[[int, int], Iterator[Inputs]]


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches as the library asks for them; none is kept."""

    def __init__(self, count: int, batches: Batches, input_name: str) -> None:
        self._count = count
        self._batches = batches
        self._input_name = input_name
        self._waiting = batches(0, count)

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        self._waiting = self._batches(start_index, end_index)

    def get_next(self) -> dict[str, Inputs] | None:
        batch = next(self._waiting, None)
        return None if batch is None else {self._input_name: batch}


def quantise_graph(source: Path, target: Path, batches: Batches, count: int, *, method: str, per_channel: bool) -> None:
    """Write ``target`` from ``source``, calibrated with ``count`` batches; temporary files go beside ``target``.

    ``method``: a key of METHODS; ``per_channel``: a scale for each output channel of a kernel instead of one for all.
    The batches are run one at a time and forgotten, so memory does not grow with them.
    """
    prepared = target.with_name("prepared.onnx")
    with _temporary_files_in(target.parent), redirect_stdout(io.StringIO()):
        # Infers shapes. Nothing is left to fold or fuse: the exporter has done that.
        quantization.quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        input_name = onnx.load(str(prepared), load_external_data=False).graph.input[0].name
        quantization.quantize_static(
            prepared,
            target,
            _Reader(count, batches, input_name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options={
                # Otherwise what all batches make in all layers is kept until the last has been run.
                "CalibStridedMinMax": 1,
                # Of the logits: softmax takes them as they are, so that scores keep their steps.
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
            },
        )
    prepared.unlink()
    onnx.checker.check_model(str(target), full_check=True)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """The library writes models of its own; these go with the folder, also when this process is killed."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
