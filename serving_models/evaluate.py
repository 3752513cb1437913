"""Labelled images -> how many of them a model ranks right, through the same stations as the service."""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from types import TracebackType

import numpy as np
import numpy.typing as npt

from service.config import Config
from service.engines import open_engine, warm_up
from service.engines.choice import in_force
from service.errors import EngineError, ImageError, ModelError
from service.ops.decode import Limits, decode
from service.ops.label import Prediction, rank
from service.ops.model import load_verified
from service.ops.preprocess import preprocess
from serving_models.engine_config import usable_cores
from serving_models.labelled_images import LabelledImage

TOP = 5
WRONG_COLUMNS = ("image", "class_id", "label", "answered_class_id", "answered_label", "prob")

Input = npt.NDArray[np.float32]  # (3, height, width)


@dataclass(frozen=True)
class Unreadable:
    """An image that counts as none."""

    name: str
    reason: str


@dataclass
class Evaluation:
    """What was counted so far."""

    of: int  # images there are
    images: int = 0  # classified
    top1: int = 0
    top5: int = 0
    seconds: float = 0.0
    unreadable: list[Unreadable] = field(default_factory=list)
    classes: set[int] = field(default_factory=set)  # that the classified images show
    interrupted: bool = False

    @property
    def done(self) -> int:
        """Images that were looked at."""
        return self.images + len(self.unreadable)

    @property
    def rate(self) -> float:
        """Images a second, those that could not be read included."""
        return self.done / self.seconds if self.seconds else 0.0

    def count(self, image: LabelledImage, best: Sequence[Prediction]) -> None:
        """One image, and the classes that it was ranked as, best first."""
        self.images += 1
        self.classes.add(image.class_id)
        self.top1 += best[0].class_id == image.class_id
        self.top5 += any(prediction.class_id == image.class_id for prediction in best)


# Called after each batch.
Tell = Callable[[Evaluation], None]


class Evaluator:
    """One engine with one model, warmed up."""

    def __init__(self, config: Config) -> None:
        """Load the model, and choose the engine where the configuration says ``auto``.

        Raises ConfigError, ModelError.
        """
        self.model = load_verified(Path(config.regnet.local_service_conf.model_config_))
        self.config = in_force(config, self.model)
        self._batch_size = config.regnet.batch_size
        self._engine = open_engine(self.config, self.model)
        warm_up(self._engine, self.model, batch_size=self._batch_size)
        self._resize_short = self.model.resize_short if config.native.scales_jpeg else None
        self._limits = Limits(max_bytes=config.native.max_image_bytes, max_pixels=config.native.max_image_pixels)

    def run(self, images: Sequence[LabelledImage], tell: Tell, wrong: WrongAnswers | None = None) -> Evaluation:
        """Classify all of them; ``wrong`` is given those whose best class is another. Ctrl-C ends it early.

        Raises ModelError where the engine fails, and OSError of ``wrong``.
        """
        counted, began = Evaluation(of=len(images)), time.perf_counter()
        try:
            with closing(self._inputs(images)) as inputs:
                while batch := list(islice(inputs, self._batch_size)):
                    self._count(batch, counted, wrong)
                    counted.seconds = time.perf_counter() - began
                    tell(counted)
        except KeyboardInterrupt:
            counted.interrupted = True
        return counted

    def _count(
        self, batch: list[tuple[LabelledImage, Input | Unreadable]], counted: Evaluation, wrong: WrongAnswers | None
    ) -> None:
        counted.unreadable += [found for _, found in batch if isinstance(found, Unreadable)]
        readable = [(image, found) for image, found in batch if not isinstance(found, Unreadable)]
        if not readable:
            return
        scores = self._scores(np.stack([found for _, found in readable]))
        for (image, _), row in zip(readable, scores, strict=True):
            best = self._rank(image, row)
            counted.count(image, best)
            if wrong is not None and best[0].class_id != image.class_id:
                wrong.write(image, best[0])

    def _scores(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            scores: npt.NDArray[np.float32] = self._engine.run(batch)
        except Exception as error:  # of whichever vendor
            reason = " ".join(str(error).split())
            raise ModelError(f"{self.model.program}: {self.config.native.engine} cannot run it: {reason}") from None
        return scores

    def _rank(self, image: LabelledImage, scores: npt.NDArray[np.float32]) -> list[Prediction]:
        try:
            return rank(scores, self.model.labels, TOP)
        except EngineError as error:
            raise ModelError(f"{image.name}: {error}") from None

    def _inputs(
        self, images: Iterable[LabelledImage]
    ) -> Generator[tuple[LabelledImage, Input | Unreadable], None, None]:
        """Each image with what the engine is fed, in order; as many are decoded beside the engine as a batch takes."""
        threads = usable_cores()
        waiting: deque[tuple[LabelledImage, Future[Input | Unreadable]]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            try:
                for image in images:
                    waiting.append((image, pool.submit(self._read, image)))
                    if len(waiting) > self._batch_size + threads:
                        ready, future = waiting.popleft()
                        yield ready, future.result()
                while waiting:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, image: LabelledImage) -> Input | Unreadable:
        found = np.empty((3, self.model.height, self.model.width), np.float32)
        try:
            if not S_ISREG(image.path.stat().st_mode):  # opening a named pipe would wait for ever
                return Unreadable(image.name, "not a file")
            with image.path.open("rb") as file:
                content = file.read(self._limits.max_bytes + 1)  # one too many is enough to be told so
            preprocess(decode(content, self._limits, self._resize_short), self.model, found)
        except OSError as error:
            return Unreadable(image.name, error.strerror or str(error))
        except (ImageError, ValueError) as error:  # ValueError: a path with a null byte
            return Unreadable(image.name, str(error))
        return found


class WrongAnswers:
    """A CSV file of the images whose best class is another than the one they show."""

    def __init__(self, file: Path, labels: Sequence[str]) -> None:
        """Raises OSError where the file cannot be written."""
        self._stream = file.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._rows = csv.writer(self._stream)
        self._labels = labels
        self._rows.writerow(WRONG_COLUMNS)

    def __enter__(self) -> WrongAnswers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def write(self, image: LabelledImage, answered: Prediction) -> None:
        """One row: the image, the class it shows, and the class and probability that were answered."""
        shows = (image.class_id, self._labels[image.class_id])
        self._rows.writerow([image.name, *shows, answered.class_id, answered.label, f"{answered.prob:.6f}"])


def spread(images: Sequence[LabelledImage], limit: int | None) -> list[LabelledImage]:
    """At most ``limit`` of them, evenly spread: in folders the first ones would all be of one class."""
    if limit is None or limit >= len(images):
        return list(images)
    return [images[number * len(images) // limit] for number in range(limit)]
