"""The operators of an inference program as one graph, whichever of Paddle's formats it was written in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import short

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator: its inputs by Paddle's role names (``X``, ``Filter``), its main output, its attributes."""

    kind: str
    inputs: Mapping[str, str]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What a program does: inputs and parameters with their shapes (-1: any), operators in order, what it answers."""

    feeds: Mapping[str, Shape]
    fetches: tuple[str, ...]
    parameters: Mapping[str, Shape]
    nodes: tuple[Node, ...]

    def consumers(self) -> dict[str, list[Node]]:
        """For each value, the operators after its last writer that read it: following them always ends."""
        last_write = {node.output: index for index, node in enumerate(self.nodes)}
        found: dict[str, list[Node]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for value in node.inputs.values():
                if last_write.get(value, -1) < index:
                    found[value].append(node)
        return found

    def summary(self) -> str:
        """What was found, for a message: ``53 conv2d, 53 batch_norm, 49 relu``."""
        return ", ".join(f"{count} {short(kind)}" for kind, count in _counted(node.kind for node in self.nodes))


def _counted(kinds: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(kinds).most_common(4)
