"""The weights of a RegNetX -> an ONNX model with softmax, batch normalisation folded into the convolutions.

The network is known to the operator, so its graph is written down rather than converted: a converter's has to be
cleaned up, and the tool that Paddle2ONNX brings for that installs packages while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving_models.layers import Convolution, block_convolutions, stem_convolution
from serving_models.variants import STAGES, VARIANTS

Array = npt.NDArray[np.float32]

INPUT_NAME = "x"
OUTPUT_NAME = "prediction"
OPSET = 17
IR_VERSION = 8  # that of opset 17, so that runtimes since 2022 read it
EPSILON = 1e-5  # of PaddleClas's batch normalisation
_RUN_AT_ONCE = 4  # as Paddle is run: 32GF takes its memory by the image


class _Graph:
    """Nodes and initializers in the order of the computation."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: npt.NDArray[np.floating]) -> str:
        """Append an initializer; its name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def weight(self, name: str) -> str:
        """Append a parameter as it is."""
        return self.constant(name, self._weights[name])

    def convolution(self, x: str, name: str, convolution: Convolution) -> str:
        """A convolution and the batch normalisation after it, as one convolution with bias."""
        kernel, bias = folded(self._weights, name)
        pad = convolution.kernel // 2
        return self.node(
            "Conv",
            [x, self.constant(f"{name}.weight", kernel), self.constant(f"{name}.bias", bias)],
            name,
            kernel_shape=[convolution.kernel] * 2,
            strides=[convolution.stride] * 2,
            pads=[pad] * 4,
            group=convolution.groups,
        )

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", [x], f"{x}.relu")

    def bottleneck(self, x: str, name: str, convolutions: dict[str, Convolution]) -> str:
        """relu(shortcut + f(x)), as ``network.Bottleneck``."""
        y = self.relu(self.convolution(x, f"{name}.conv0", convolutions["conv0"]))
        y = self.relu(self.convolution(y, f"{name}.conv1", convolutions["conv1"]))
        y = self.convolution(y, f"{name}.conv2", convolutions["conv2"])
        projected = "short" in convolutions
        shortcut = self.convolution(x, f"{name}.short", convolutions["short"]) if projected else x
        return self.relu(self.node("Add", [shortcut, y], name))

    def head(self, x: str) -> str:
        """Average over the image, linear layer, softmax."""
        features = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pool")], "features")
        logits = self.node("Gemm", [features, self.weight("out.weight"), self.weight("out.bias")], "logits")
        return self.node("Softmax", [logits], OUTPUT_NAME, axis=1)


def folded(weights: Mapping[str, Array], name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Kernel (out, in / groups, k, k) and bias (out,) of a convolution with its batch normalisation, float64.

    gamma (conv(x) - mean) / sqrt(variance + epsilon) + beta is linear in x.
    """
    norm = f"{name}._batch_norm"
    gamma, beta, mean, variance = (
        weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "_mean", "_variance")
    )
    factor = gamma / np.sqrt(variance + EPSILON)
    return weights[f"{name}._conv.weight"] * factor[:, None, None, None], beta - mean * factor


def onnx_model(weights: Mapping[str, Array], architecture: str, *, height: int, width: int) -> onnx.ModelProto:
    """``x`` (batch, 3, height, width) float32 -> ``prediction`` (batch, classes) float32, any batch size.

    ``weights``: a whole state dict, as ``weights.load_strictly`` accepts it.
    """
    graph, variant = _Graph(weights), VARIANTS[architecture]
    x = graph.relu(graph.convolution(INPUT_NAME, "conv", stem_convolution()))
    for stage in range(1, STAGES + 1):
        for block in range(1, variant.depths[stage - 1] + 1):
            x = graph.bottleneck(x, f"s{stage}_b{block}", block_convolutions(variant, stage, block))
    graph.head(x)
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", 3, height, width])
    classes = weights["out.bias"].shape[0]
    scores = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", classes])
    whole = helper.make_graph(graph.nodes, architecture, [images], [scores], graph.initializers)
    return helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="regnetx-serving"
    )


def write_onnx(weights: Mapping[str, Array], architecture: str, file: Path, *, height: int, width: int) -> None:
    """Write ``onnx_model`` and let ONNX's own checker read it back. The same weights make the same bytes."""
    model = onnx_model(weights, architecture, height=height, width=width)
    file.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(file), full_check=True)


def onnx_scores(file: Path, images: Array) -> Array:
    """Scores (n, classes) of images (n, 3, height, width) by ONNX Runtime on the CPU.

    Raises RuntimeError or ValueError where it cannot run the file.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # see service.engines
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    parts = [images[first : first + _RUN_AT_ONCE] for first in range(0, len(images), _RUN_AT_ONCE)]
    return np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: part})[0] for part in parts])
