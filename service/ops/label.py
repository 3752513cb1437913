"""Scores of one image -> ranked predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its place in class order, its label and the model's score for it."""

    class_id: int
    label: str
    prob: float  # the float32 score as it is, not rounded


def rank(scores: NDArray[np.float32], labels: Sequence[str], k: int) -> list[Prediction]:
    """The ``k`` best classes, best first; equal scores in class order, as PaddleClas's ``index(max(score))``.

    ``scores`` is (classes,) float32; ``k`` is clipped to 1 .. classes.
    Raises EngineError: not one finite score a label.
    """
    if scores.shape != (len(labels),):
        raise EngineError(f"the engine answered scores of shape {scores.shape} for {len(labels)} labels")
    if not np.isfinite(scores).all():
        class_id = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise EngineError(f"the engine answered {scores[class_id]} as the score of class {class_id}")
    return [Prediction(int(i), labels[i], float(scores[i])) for i in _best(scores, k)]


def _best(scores: NDArray[np.float32], k: int) -> list[int]:
    if k <= 1:
        return [int(scores.argmax())]
    order: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    return order
