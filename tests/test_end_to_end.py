"""Export, serve, ask: the held-out digits through every door, with the accuracy of the offline run found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from offline import probabilities
from running import ROOT

from regnetx_client import Client
from regnetx_client.grpc import GrpcClient
from serving_models.bundled.digits.held_out import held_out

NAMES = (ROOT / "serving_models/bundled/digits/digits_labels.txt").read_text().split()
BATCH = 16


@pytest.fixture(scope="module")
def offline(digits_model, tmp_path_factory):
    """(held-out digits, classes) scores computed without a server, one image at a time."""
    images = held_out().images
    return np.array(probabilities(digits_model, images, tmp_path_factory.mktemp("offline"), classes=len(NAMES)))


def in_class_order(predictions):
    return [prediction.prob for prediction in sorted(predictions, key=lambda prediction: prediction.class_id)]


def accuracy(scores):
    return float(np.mean(np.argmax(scores, axis=1) == np.array(held_out().labels)))


def ask(client):
    images = held_out().images
    answers = [
        ranked
        for start in range(0, len(images), BATCH)
        for ranked in client.classify_batch(images[start : start + BATCH], top_k=len(NAMES))
    ]
    assert [ranked[0].label for ranked in answers] == [NAMES[ranked[0].class_id] for ranked in answers]
    return np.array([in_class_order(ranked) for ranked in answers])


def test_the_bundled_model_is_right_on_at_least_97_of_100_held_out_digits(offline):
    assert accuracy(offline) >= 0.97


def test_http_finds_the_offline_scores_and_accuracy_again(service, offline):
    with Client(service.url) as client:
        scores = ask(client)
    np.testing.assert_allclose(scores, offline, atol=1e-5)
    assert accuracy(scores) == accuracy(offline)


def test_grpc_finds_the_offline_scores_and_accuracy_again(service, offline):
    with GrpcClient(service.rpc) as client:
        scores = ask(client)
    np.testing.assert_allclose(scores, offline, atol=1e-5)
    assert accuracy(scores) == accuracy(offline)


def test_predict_without_a_server_gives_the_same_answer(digits_model, offline, tmp_path):
    file = tmp_path / "digit.png"
    file.write_bytes(held_out().images[0])
    command = [sys.executable, "-m", "service", "predict", str(file), "--top-k", "10", "--json"]
    result = subprocess.run(
        [*command, "--model", str(digits_model)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["image"] == str(file)
    scores = [entry["prob"] for entry in sorted(answer["top_k"], key=lambda entry: entry["class_id"])]
    np.testing.assert_allclose(scores, offline[0], atol=1e-5)


def test_predict_names_the_files_that_it_could_not_classify_and_answers_the_others(digits_model, tmp_path):
    good, bad = tmp_path / "digit.png", tmp_path / "text.png"
    good.write_bytes(held_out().images[0])
    bad.write_text("hello")
    command = [sys.executable, "-m", "service", "predict", str(bad), str(good), str(tmp_path / "none.png")]
    result = subprocess.run(
        [*command, "--model", str(digits_model)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert result.stdout.count("\n") == 1 and str(good) in result.stdout
    assert "text.png: 5 bytes, but not an image we can read" in result.stderr
    assert "none.png: No such file or directory" in result.stderr


def test_predict_reads_no_more_of_a_file_than_an_image_may_have(digits_model):
    command = [sys.executable, "-m", "service", "predict", "/dev/zero", "--model", str(digits_model)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (1, "")
    assert "/dev/zero: 20971521 bytes, at most 20971520 accepted" in result.stderr


def test_predict_takes_a_file_whose_name_is_no_text(digits_model, tmp_path):
    file = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(file)).write_bytes(held_out().images[0])
    command = [sys.executable, "-m", "service", "predict", file, "--model", str(digits_model)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{tmp_path}/\\udcff.png  ")


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_predict_refuses_a_top_k_that_cannot_be(digits_model, count):
    command = [sys.executable, "-m", "service", "predict", f"--top-k={count}", "x.png", "--model", str(digits_model)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert f"argument --top-k: '{count}' is not a whole number from 1" in result.stderr


def test_a_reader_that_leaves_is_no_error(digits_model):
    command = [sys.executable, "-m", "service", "check", "--model", str(digits_model)]
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert result.returncode == 141
    assert "Error" not in result.stderr and "Exception" not in result.stderr
