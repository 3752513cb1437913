"""The bundled digits model: what it was measured on, and that it still answers as measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from service.ops.decode import Limits, decode
from serving_models import network, weights
from serving_models.bundled.digits import train_digits
from serving_models.bundled.digits.held_out import held_out, training
from serving_models.class_labels import read_labels

FOLDER = Path(train_digits.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained():
    path = train_digits.WEIGHTS
    arrays = weights.read_weights(path)
    layer = network.build(weights.variant_of(arrays, path), weights.classes_of(arrays, path))
    weights.load_strictly(layer, arrays, source=path)
    return layer


def test_no_digit_is_both_trained_on_and_held_out():
    everything = training().images + held_out().images
    assert len(everything) == len(set(everything)) == 1797


def test_a_quarter_of_each_digit_is_held_out():
    total = Counter(training().labels + held_out().labels)
    assert Counter(held_out().labels) == {digit: count // 4 for digit, count in total.items()}


def test_the_held_out_accuracy_is_the_one_stated(trained):
    digits = held_out()
    answers = train_digits.classify(trained, train_digits.inputs(digits.images, train_digits.feeding()))
    correct = int(np.equal(answers, digits.labels).sum())
    assert correct / len(digits.labels) >= train_digits.REQUIRED_ACCURACY
    assert f"{correct} of {len(digits.labels)}" in README


def test_the_samples_are_held_out_digits_named_by_what_they_show(trained):
    labels = read_labels(FOLDER / "digits_labels.txt")
    shown = {image: labels[digit] for image, digit in zip(held_out().images, held_out().labels, strict=True)}
    samples = sorted(train_digits.SAMPLES.iterdir())
    assert [shown[sample.read_bytes()] for sample in samples] == [sample.stem for sample in samples]
    assert all(decode(sample.read_bytes(), Limits()).shape == (8, 8, 3) for sample in samples)


def test_the_samples_are_answered_right(trained):
    labels = read_labels(FOLDER / "digits_labels.txt")
    samples = sorted(train_digits.SAMPLES.iterdir())
    fed = train_digits.inputs([sample.read_bytes() for sample in samples], train_digits.feeding())
    assert [labels[answer] for answer in train_digits.classify(trained, fed)] == [sample.stem for sample in samples]


def test_only_what_a_state_dict_needs_is_stored():
    assert train_digits.WEIGHTS.stat().st_size < 9_500_000
