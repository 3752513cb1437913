"""Programs that differ from a RegNetX in one place: each is refused, and the line says where it departs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_files
import paddle
import pytest
from paddle.nn import functional

from service.errors import ModelError
from serving_models.graph import Graph, Node
from serving_models.program_files import read_program
from serving_models.recognition import recognise


class Reluctant(paddle.nn.Layer):
    """A block whose shortcut has one relu too many: the same numbers, but no block of a RegNetX."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = functional.relu(self.block.conv1(functional.relu(self.block.conv0(x))))
        return functional.relu(functional.relu(x) + self.block.conv2(y))


def with_another_epsilon(layer: Any) -> None:
    layer.s2_b1.conv1._batch_norm._epsilon = 1e-3


def with_a_wider_kernel(layer: Any) -> None:
    convolution = layer.s2_b1.conv1._conv
    convolution._dilation, convolution._updated_padding = [2, 2], [2, 2]


def with_a_maximum_for_the_average(layer: Any) -> None:
    layer.pool = paddle.nn.AdaptiveMaxPool2D(1)


def with_a_pooling_of_parts(layer: Any) -> None:
    layer.pool = paddle.nn.AvgPool2D(1)


def with_an_odd_shortcut(layer: Any) -> None:
    layer._blocks[-1] = Reluctant(layer._blocks[-1])


def with_two_heads(layer: Any) -> None:
    layer.out = paddle.nn.Sequential(layer.out, paddle.nn.Linear(model_files.CLASSES, 3))


DIFFERENCES = [
    (with_another_epsilon, "the batch_norm of s2_b1.conv1 has the epsilon 0.001"),
    (with_a_wider_kernel, "dilations [2, 2], where s2_b1.conv1 is"),
    (with_a_maximum_for_the_average, "where a residual block or the average pooling does"),
    (with_a_pooling_of_parts, "the pooling before its head is not a global average"),
    (with_an_odd_shortcut, "s4_b7 does not add its input to its output"),
    (with_two_heads, "its output is "),
]
# Attributes are written in another way in each format; the walk behind them is the same.
IN_JSON = DIFFERENCES[:1] + DIFFERENCES[3:4]


@pytest.mark.parametrize(
    ("spoil", "found", "old"), [(*row, True) for row in DIFFERENCES] + [(*row, False) for row in IN_JSON]
)
def test_one_difference_is_enough(spoil: Callable[[Any], None], found: str, old: bool, tmp_path: Path) -> None:
    layer = model_files.small_network()
    spoil(layer)
    folder = model_files.save_program(layer, tmp_path, old=old)
    program = next(folder.glob("inference.json" if not old else "*.pdmodel"))

    with pytest.raises(ModelError) as refused:
        recognise(read_program(program), program)
    assert found in str(refused.value)


@pytest.mark.parametrize("old", [True, False], ids=["pdmodel", "json"])
def test_the_order_in_which_a_program_lists_its_operators_does_not_matter(old: bool, tmp_path: Path) -> None:
    folder = model_files.save_program(model_files.small_network(), tmp_path, old=old)
    graph = read_program(folder / ("inference.pdmodel" if old else "inference.json"))
    shuffled = Graph(graph.feeds, graph.fetches, dict(reversed(graph.parameters.items())), as_late_as_possible(graph))

    assert shuffled.nodes != graph.nodes
    assert recognise(shuffled, tmp_path) == recognise(graph, tmp_path)


def as_late_as_possible(graph: Graph) -> tuple[Node, ...]:
    """The same operators, each only when there is no other left to run: the last listed first among those."""
    waiting, known, done = list(graph.nodes), {*graph.feeds, *graph.parameters}, []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.inputs.values())]
        waiting.remove(ready[-1])
        known.add(ready[-1].output)
        done.append(ready[-1])
    return tuple(done)
