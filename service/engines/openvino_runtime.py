"""OpenVINO on the CPU."""

import sys

import numpy as np

if "openvino_telemetry" not in sys.modules:
    # Only its converter uses it, which nothing here calls; a service has nothing to report to its vendor.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino  # type: ignore[import-untyped]

from service.config import Config
from service.engines.graph import graph_file
from service.engines.precision import require_device, require_precision
from service.errors import ConfigError, ModelError
from service.ops.model import Model

# Of what a graph leaves open. That of int8 says itself which layers are int8; the others stay in float32.
HINTS = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "int8": openvino.Type.f32}


class OpenVinoEngine:
    """One compiled model with one inference request."""

    def __init__(self, config: Config, model: Model, *, instance: int, threads: int) -> None:
        settings = config.regnet.local_service_conf
        require_device(settings, engine="openvino", gpu=False)
        require_precision(settings, engine="openvino", cpu=list(HINTS))
        file, precision = graph_file(model, engine="openvino", precision=settings.precision), HINTS[settings.precision]
        try:
            compiled = openvino.Core().compile_model(str(file), "CPU", _properties(precision, threads))
        except RuntimeError as error:
            raise ModelError(f"{file}: OpenVINO cannot load it: {' '.join(str(error).split())}") from None
        in_force = compiled.get_property("INFERENCE_PRECISION_HINT")
        if in_force != precision:
            raise ConfigError(
                f"op.*.local_service_conf.precision: {settings.precision}, but OpenVINO takes {in_force} on this CPU;"
                " accepted: native.engine: paddle"
            )
        self._request = compiled.create_infer_request()
        self._input = compiled.input(0)
        self._output = compiled.output(0)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32. Raises RuntimeError for one not run."""
        # A run that finds no memory ends without an error, and the scores of the run before stand there still.
        self._request.get_output_tensor().data[...] = np.nan
        scores: np.ndarray = self._request.infer({self._input: batch}, share_inputs=True)[self._output]
        if len(scores) != len(batch) or np.isnan(scores).any():
            raise RuntimeError("OpenVINO has not run the batch; out of memory?")
        return scores


def _properties(precision: openvino.Type, threads: int) -> dict[str, object]:
    return {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        # Every engine process would pin its threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,  # otherwise no more threads than physical cores
    }
