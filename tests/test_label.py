"""Scores -> ranked predictions."""

import numpy as np
import pytest

from service.errors import EngineError
from service.ops.label import Prediction, rank

LABELS = ("tench", "goldfish", "great white shark", "tiger shark")


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_best_come_first_with_class_and_label():
    assert rank(scores(0.125, 0.5, 0.25, 0.0625), LABELS, 3) == [
        Prediction(1, "goldfish", 0.5),
        Prediction(2, "great white shark", 0.25),
        Prediction(0, "tench", 0.125),
    ]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_equal_scores_stay_in_class_order(k):
    ranked = rank(scores(0.25, 0.5, 0.5, 0.5), LABELS, k)
    assert [prediction.class_id for prediction in ranked] == [1, 2, 3, 0][:k]


def test_all_scores_equal_is_the_first_class():
    assert rank(scores(0.25, 0.25, 0.25, 0.25), LABELS, 1) == [Prediction(0, "tench", 0.25)]


def test_the_first_of_many_is_the_only_one():
    generator = np.random.default_rng(4)
    labels = [str(i) for i in range(1000)]
    for _ in range(50):
        values = generator.integers(0, 200, 1000).astype(np.float32)
        expected = sorted(range(1000), key=lambda i: -values[i])  # sorted is stable
        assert [p.class_id for p in rank(values, labels, 1000)] == expected
        assert rank(values, labels, 1) == rank(values, labels, 5)[:1]
        assert rank(values, labels, 1)[0].class_id == values.tolist().index(max(values.tolist()))


@pytest.mark.parametrize(("k", "count"), [(-1, 1), (0, 1), (1, 1), (4, 4), (5, 4), (10**9, 4)])
def test_k_is_clipped_to_what_there_is(k, count):
    assert len(rank(scores(0.1, 0.2, 0.3, 0.4), LABELS, k)) == count


def test_a_probability_is_the_float32_as_it_is():
    prob = rank(scores(0.1, 0, 0, 0), LABELS, 1)[0].prob
    assert type(prob) is float and prob == 0.10000000149011612


def test_one_class_is_a_ranking_of_one():
    assert rank(scores(1.0), ["only"], 5) == [Prediction(0, "only", 1.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_the_engines_error(bad):
    with pytest.raises(EngineError, match=rf"^the engine answered {bad} as the score of class 2$"):
        rank(scores(0.1, 0.2, bad, bad), LABELS, 1)


@pytest.mark.parametrize("shape", [(3,), (5,), (0,), (1, 4)])
def test_another_number_of_scores_than_labels_is_the_engines_error(shape):
    with pytest.raises(EngineError, match=r"^the engine answered scores of shape \(.*\) for 4 labels$"):
        rank(np.zeros(shape, np.float32), LABELS, 1)
