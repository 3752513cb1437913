"""The graph of an inference program -> which of its parameters is which of a RegNetX; anything else is refused.

A walk along the data flow, stem to head: what the program computes is proved to be a RegNetX, operator by operator,
whatever its variables are called and in whichever order it lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import ModelError, short, shown
from serving_models.graph import Graph, Node, Shape
from serving_models.variants import VARIANTS

ACCEPTED = f"accepted are the inference models of {', '.join(VARIANTS)}"
# What PaddleClas calls a batch normalisation's parameters, by the operator's names for them.
_BATCH_NORM = {"Scale": "weight", "Bias": "bias", "Mean": "_mean", "Variance": "_variance"}
_EPSILON = 1e-5


@dataclass(frozen=True)
class RegNetXProgram:
    """A recognised program: PaddleClas's parameter names -> the program's own, and how it is fed and answers."""

    names: dict[str, str]
    input_shape: Shape
    has_softmax: bool


class _ForeignError(Exception):
    """The program is not that of a RegNetX; the text says where it departs."""


def recognise(graph: Graph, source: Path) -> RegNetXProgram:
    """Walk the program from its input to its output.

    Raises ModelError where it is not a RegNetX, with what was found and what is accepted. Shapes are left to
    ``weights.variant_of``.
    """
    try:
        return _Walk(graph).program()
    except _ForeignError as error:
        raise ModelError(f"{source}: not a RegNetX: {error} (found {graph.summary()}); {ACCEPTED}") from None


class _Walk:
    """Where we are in the data flow, and the parameters met so far."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._consumers = graph.consumers()
        self._names: dict[str, str] = {}

    def program(self) -> RegNetXProgram:
        """The whole walk."""
        feed, fetch = self._ends()
        value = self._relu(self._conv_norm("conv", feed, kernel=3, stride=2))
        stage, block = 0, 0
        while not self._reads(value, "pool2d"):
            stride = self._block_stride(value)
            stage, block = (stage + 1, 1) if stride == 2 else (stage, block + 1)
            value = self._bottleneck(f"s{stage}_b{block}", value, stride)
        value, has_softmax = self._head(value)
        if value != fetch:
            raise _ForeignError(f"its output is {shown(fetch)}, not the scores {shown(value)}")
        return RegNetXProgram(self._names, self._graph.feeds[feed], has_softmax)

    def _ends(self) -> tuple[str, str]:
        feeds, fetches = list(self._graph.feeds), self._graph.fetches
        if len(feeds) != 1 or len(fetches) != 1:
            raise _ForeignError(
                f"{len(feeds)} inputs {shown(feeds)} and {len(fetches)} outputs, where it has one of each"
            )
        shape = self._graph.feeds[feeds[0]]
        if len(shape) != 4 or shape[1] != 3:
            raise _ForeignError(
                f"its input {shown(feeds[0])} has the shape {shown(list(shape))}, where it has [-1, 3, height, width]"
            )
        return feeds[0], fetches[0]

    def _bottleneck(self, block: str, value: str, stride: int) -> str:
        first, projection = self._branches(value)
        x = self._relu(self._conv_norm(f"{block}.conv0", value, kernel=1, node=first))
        x = self._relu(self._conv_norm(f"{block}.conv1", x, kernel=3, stride=stride))
        x = self._conv_norm(f"{block}.conv2", x, kernel=1)
        shortcut = value
        if projection is not None:
            shortcut = self._conv_norm(f"{block}.short", value, kernel=1, stride=stride, node=projection)
        add = self._only(x, "add")
        if {add.inputs.get("X"), add.inputs.get("Y")} != {x, shortcut}:
            raise _ForeignError(f"{block} does not add its input to its output")
        return self._relu(add.output)

    def _branches(self, value: str) -> tuple[Node, Node | None]:
        """The first convolution of a block, and the projection of its input if there is one (no relu follows it)."""
        convolutions = [node for node in self._consumers[value] if node.kind == "conv2d"]
        firsts = [node for node in convolutions if self._reads(self._only(node.output, "batch_norm").output, "relu")]
        projections = [node for node in convolutions if node not in firsts]
        if len(firsts) != 1 or len(projections) > 1 or len(self._consumers[value]) != 2:
            kinds = [node.kind for node in self._consumers[value]]
            raise _ForeignError(
                f"{shown(kinds)} read {shown(value)}, where a residual block or the average pooling does"
            )
        return firsts[0], projections[0] if projections else None

    def _block_stride(self, value: str) -> int:
        first, _ = self._branches(value)
        relu = self._only(self._only(first.output, "batch_norm").output, "relu")
        second = self._only(relu.output, "conv2d")
        return 2 if _numbers(second, "strides") == [2, 2] else 1

    def _conv_norm(self, name: str, value: str, *, kernel: int, stride: int = 1, node: Node | None = None) -> str:
        conv = node or self._only(value, "conv2d")
        weight = self._parameter(conv, "Filter")
        shape = self._graph.parameters[weight]
        found = ", ".join(f"{key} {shown(_numbers(conv, key))}" for key in ("strides", "paddings", "dilations"))
        expected = f"strides {[stride] * 2}, paddings {[kernel // 2] * 2}, dilations [1, 1]"
        if shape[2:] != (kernel, kernel) or found != expected or "Bias" in conv.inputs:
            raise _ForeignError(
                f"a convolution {shown(list(shape))}, {found},"
                f" where {name} is [out, in, {kernel}, {kernel}], {expected}"
            )
        self._names[f"{name}._conv.weight"] = weight
        norm = self._only(conv.output, "batch_norm")
        epsilon = norm.attributes.get("epsilon")
        if not isinstance(epsilon, float) or abs(epsilon - _EPSILON) > 1e-9:
            raise _ForeignError(f"the batch_norm of {name} has the epsilon {shown(epsilon)}, not {_EPSILON}")
        for role, ours in _BATCH_NORM.items():
            self._names[f"{name}._batch_norm.{ours}"] = self._parameter(norm, role)
        return norm.output

    def _head(self, value: str) -> tuple[str, bool]:
        pool = self._only(value, "pool2d")
        whole = pool.attributes.get("global_pooling") or pool.attributes.get("adaptive")
        if pool.attributes.get("pooling_type") != "avg" or not whole:
            raise _ForeignError("the pooling before its head is not a global average")
        value = next(
            (node.output for node in self._consumers[pool.output] if node.kind in ("reshape", "flatten")), pool.output
        )
        product = self._only(value, "matmul")
        add = self._only(product.output, "add")
        self._names["out.weight"] = self._parameter(product, "Y")
        self._names["out.bias"] = self._parameter(add, "Y")
        value = self._past_copies(add.output)
        if not self._reads(value, "softmax"):
            return value, False
        return self._past_copies(self._only(value, "softmax").output), True

    def _past_copies(self, value: str) -> str:
        """Behind operators that change nothing; older exports name their output by one."""
        for node in self._walk_copies(value):
            value = node.output
        return value

    def _walk_copies(self, value: str) -> Iterator[Node]:
        while len(self._consumers[value]) == 1 and _copies(self._consumers[value][0]):
            yield self._consumers[value][0]
            value = self._consumers[value][0].output

    def _relu(self, value: str) -> str:
        return self._only(value, "relu").output

    def _reads(self, value: str, kind: str) -> bool:
        return any(node.kind == kind for node in self._consumers[value])

    def _only(self, value: str, kind: str) -> Node:
        """The one operator that reads a value, of the kind it must be."""
        nodes = self._consumers[value]
        if len(nodes) != 1 or nodes[0].kind != kind:
            found = " and ".join(node.kind for node in nodes) or "nothing"
            raise _ForeignError(f"{short(found)} reads {shown(value)}, where {kind} does")
        return nodes[0]

    def _parameter(self, node: Node, role: str) -> str:
        name = node.inputs.get(role, "")
        if name not in self._graph.parameters:
            raise _ForeignError(f"the {role} of {short(node.kind)} {shown(node.output)} is {shown(name)}, no parameter")
        return name


def _numbers(node: Node, attribute: str) -> list[Any]:
    value = node.attributes.get(attribute)
    return value if isinstance(value, list) else []


def _copies(node: Node) -> bool:
    if node.kind == "scale":
        return bool(node.attributes.get("scale") == 1.0 and node.attributes.get("bias") == 0.0)
    return node.kind == "assign"
