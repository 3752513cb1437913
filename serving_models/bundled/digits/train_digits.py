"""Train the bundled digits model: python -m serving_models.bundled.digits.train_digits

RegNetX_200MF on the training split of held_out.py, fed as inference.yml says, on the CPU, in some minutes. Epochs and
rates are fixed (they were chosen on 300 of the training digits): the held-out digits are looked at once, at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import paddle
from paddle.nn import functional
from rich.progress import track

from service.ops.decode import Limits, decode
from service.ops.model import Model
from service.ops.preprocess import preprocess
from serving_models import network
from serving_models.bundled.digits.held_out import Digits, held_out, training
from serving_models.inference_yml import read_inference_yml

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "RegNetX_200MF_digits.pdparams"
SAMPLES = FOLDER / "samples"
REQUIRED_ACCURACY = 0.97

EPOCHS = 60
BATCH = 50
PEAK_RATE = 0.1
WARM_UP_EPOCHS = 3
WEIGHT_DECAY = 5e-4

Inputs = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]


def main() -> int:
    """Train, measure, and only where the measure is good enough write the weights and the samples."""
    paddle.seed(0)
    model = feeding()
    trained = train(inputs(training().images, model), np.array(training().labels), model)
    correct = np.array(classify(trained, inputs(held_out().images, model))) == np.array(held_out().labels)
    print(f"held-out accuracy {correct.mean():.2%}: {correct.sum()} of {len(correct)} digits")
    if correct.mean() < REQUIRED_ACCURACY:
        print(f"below {REQUIRED_ACCURACY:.0%}: nothing was written", file=sys.stderr)
        return 1
    paddle.save(trained.state_dict(), str(WEIGHTS))
    write_samples(held_out(), model.labels)
    return 0


def feeding() -> Model:
    """inference.yml as the service's preprocessing reads it; there are no exported files yet."""
    yml = read_inference_yml(FOLDER / "inference.yml")
    if yml.crop is None or yml.resize_short is None or yml.labels is None:
        raise ValueError(f"{FOLDER / 'inference.yml'}: crop, resize_short and labels must be given")
    return Model(
        name="digits",
        architecture="RegNetX_200MF",
        program=Path(),
        params=Path(),
        input_name="x",
        height=yml.crop[0],
        width=yml.crop[1],
        resize_short=yml.resize_short,
        scale=yml.scale,
        mean=yml.mean,
        std=yml.std,
        output_name="",
        labels=yml.labels,
    )


def inputs(images: Sequence[bytes], model: Model) -> Inputs:
    """Encoded images -> (n, 3, height, width), by the very functions that the service runs."""
    batch = np.empty((len(images), 3, model.height, model.width), np.float32)
    for encoded, out in zip(images, batch, strict=True):
        preprocess(decode(encoded, Limits()), model, out)
    return batch


def train(images: Inputs, labels: Classes, model: Model) -> network.RegNetX:
    """The network after EPOCHS: Nesterov momentum, a warm-up and a cosine, and slightly moved digits in every epoch."""
    trained = network.build(model.architecture, model.classes)
    random = np.random.default_rng(0)
    schedule, optimizer = _optimizer(trained, steps_per_epoch=len(images) // BATCH)
    trained.train()
    for _ in track(range(EPOCHS), "training"):
        for chosen in _batches(len(images), random):
            moved = _move(images[chosen], random, black=-model.mean[0] / model.std[0])
            scores = trained(paddle.to_tensor(moved))
            # Smoothing keeps the probabilities of a small model honest.
            loss = functional.cross_entropy(scores, paddle.to_tensor(labels[chosen]), label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
    return trained


def classify(trained: network.RegNetX, images: Inputs) -> list[int]:
    """The class of each image."""
    trained.eval()
    with paddle.no_grad():
        logits = trained(paddle.to_tensor(images)).numpy()
    return [int(row.argmax()) for row in logits]


def write_samples(digits: Digits, labels: Sequence[str]) -> None:
    """The first held-out image of each digit, named by what it shows, right or wrong answered."""
    SAMPLES.mkdir(exist_ok=True)
    for digit, label in enumerate(labels):
        (SAMPLES / f"{label}.png").write_bytes(digits.images[digits.labels.index(digit)])


def _optimizer(trained: network.RegNetX, *, steps_per_epoch: int) -> tuple[Any, Any]:
    rate = paddle.optimizer.lr
    cosine = rate.CosineAnnealingDecay(PEAK_RATE, EPOCHS * steps_per_epoch)
    schedule = rate.LinearWarmup(cosine, WARM_UP_EPOCHS * steps_per_epoch, start_lr=0, end_lr=PEAK_RATE)
    optimizer = paddle.optimizer.Momentum(
        schedule,
        momentum=0.9,
        use_nesterov=True,
        weight_decay=paddle.regularizer.L2Decay(WEIGHT_DECAY),
        parameters=trained.parameters(),
    )
    return schedule, optimizer


def _batches(count: int, random: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    order = random.permutation(count)
    for start in range(0, count - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def _move(images: Inputs, random: np.random.Generator, *, black: float) -> Inputs:
    """Each image turned by up to 12 degrees, scaled and shifted by up to a tenth."""
    moved = np.empty_like(images)
    side = images.shape[-1]
    centre = ((side - 1) / 2, (side - 1) / 2)
    for image, out in zip(images, moved, strict=True):
        matrix = cv2.getRotationMatrix2D(centre, random.uniform(-12, 12), random.uniform(0.9, 1.1))
        matrix[:, 2] += random.uniform(-side / 10, side / 10, 2)
        for plane, target in zip(image, out, strict=True):
            cv2.warpAffine(plane, matrix, (side, side), dst=target, borderValue=black)
    return moved


if __name__ == "__main__":
    sys.exit(main())
