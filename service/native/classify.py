"""Encoded images -> ranked predictions: the one use case behind both doors.

admit -> decode pool -> slot -> engine -> scores -> rank
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from service.contract.encoded_image import EncodedImage, file_of, named
from service.errors import DeadlineExceededError, DrainingError, ImageError, OpTimeoutError, ServiceError, StartupError
from service.native.access_log import Times
from service.native.dispatch import Dispatcher
from service.native.metric_block import Block, Counter, Histogram
from service.native.metrics import IMAGES, STAGE_SECONDS, Format, Stage
from service.ops.decode import Limits, decode
from service.ops.label import Prediction, rank
from service.ops.memory import give_back
from service.ops.model import Model
from service.ops.preprocess import preprocess

BASE64_SLACK = 1.05  # line breaks are no bytes of the image; what is left is checked again once it is decoded
# Enough to tell the formats apart once a file has been decoded.
FIRST_BYTES = {
    0xFF: Format.JPEG,
    0x89: Format.PNG,
    ord("R"): Format.WEBP,
    ord("B"): Format.BMP,
    ord("G"): Format.GIF,
}


class Written(NamedTuple):
    """What a decode thread tells of an image that is in its slot. Times are seconds of ``time.perf_counter``."""

    format: Format
    begun: float
    decoded: float
    ended: float


class ImageMeter:
    """The metrics of images. Only the event loop writes them: two threads that add to one cell lose counts."""

    def __init__(self, block: Block) -> None:
        self._stages = {stage: Histogram(block, STAGE_SECONDS, stage) for stage in Stage}
        self._images = {format_: Counter(block, IMAGES, format_) for format_ in Format}

    def written(self, written: Written, handed_over: float, times: Times | None) -> None:
        """An image is in its slot; it was handed to the decode threads at ``handed_over``."""
        queue, decoding = written.begun - handed_over, written.decoded - written.begun
        preprocessing = written.ended - written.decoded
        self._images[written.format].add()
        self._stages[Stage.QUEUE].observe(queue)
        self._stages[Stage.DECODE].observe(decoding)
        self._stages[Stage.PREPROCESS].observe(preprocessing)
        if times:
            times.of_image(queue, decoding, preprocessing)
            times.stayed(Stage.QUEUE, handed_over, written.begun)
            times.stayed(Stage.DECODE, written.begun, written.decoded)
            times.stayed(Stage.PREPROCESS, written.decoded, written.ended)

    def labelled(self, seconds: float) -> None:
        """The scores of a request have become labels."""
        self._stages[Stage.LABEL].observe(seconds)


class Classifier:
    """Owns the decode threads. A request ends when it is answered; each of its slots when its last user is done."""

    def __init__(
        self, dispatcher: Dispatcher, model: Model, meter: ImageMeter, *,
        limits: Limits, scales_jpeg: bool, threads: int, timeout: float,
    ) -> None:  # fmt: skip
        """``timeout``: seconds from a request's arrival until OpTimeoutError. Raises StartupError without threads."""
        self._dispatcher = dispatcher
        self._model = model
        self._meter = meter
        self._limits = limits
        self._resize_short = model.resize_short if scales_jpeg else None
        self._timeout = timeout
        self._answers: set[asyncio.Future[None]] = set()
        self._pool = _started(threads)

    def check_room(self, timeout: float | None = None) -> None:
        """Raises OverloadedError or UnavailableError where no image would be taken now. ``timeout``: the caller's."""
        self._dispatcher.check_room(self._timeout if timeout is None else min(timeout, self._timeout))

    async def classify(
        self,
        images: Sequence[EncodedImage],
        *,
        top_k: int,
        deadline: float | None = None,
        times: Times | None = None,
    ) -> list[list[Prediction]]:
        """The ``top_k`` best predictions of each image, in order. ``deadline``: the caller's, monotonic seconds;
        ``times``: where the request's times at the stations are written.

        Raises the ServiceError of the first image that failed, OverloadedError, OpTimeoutError, DeadlineExceededError.
        """
        due = time.monotonic() + self._timeout
        late: Callable[[], ServiceError] = partial(OpTimeoutError, f"not answered within {self._timeout:g} s")
        if deadline is not None and deadline < due:
            due, late = deadline, partial(DeadlineExceededError, "context deadline exceeded")
        rows = await self._scores(images, due, late, times)
        began = time.perf_counter()
        predictions = [rank(row, self._model.labels, top_k) for row in rows]
        seconds = time.perf_counter() - began
        self._meter.labelled(seconds)
        if times:
            times.label = seconds
            times.stayed(Stage.LABEL, began, began + seconds)
        return predictions

    def cut(self) -> None:
        """Answer everything that is still in flight with DrainingError: the time to finish it is over."""
        for answer in list(self._answers):
            _fail(answer, DrainingError())

    async def _scores(
        self, images: Sequence[EncodedImage], due: float, late: Callable[[], ServiceError], times: Times | None
    ) -> list[np.ndarray]:
        loop = asyncio.get_running_loop()
        slots = self._dispatcher.acquire(len(images), due)
        # The tasks outlive a request that is cancelled or late: each frees its slot when its last user is done.
        tasks = [
            loop.create_task(self._image(slot, image, times, is_one_of_many=len(images) > 1))
            for slot, image in zip(slots, images, strict=True)
        ]
        answer = _all_or_first_error(tasks)
        timer = loop.call_later(due - time.monotonic(), _fail_late, answer, late)
        self._answers.add(answer)
        try:
            await answer
            return [task.result() for task in tasks]
        except TimeoutError:
            raise late() from None
        finally:
            timer.cancel()
            self._answers.discard(answer)
            self._dispatcher.abandon([slot for slot, task in zip(slots, tasks, strict=True) if not task.done()])
            # Or an error, its traceback, this frame and these would hold each other, and the request, until a
            # collection
            del answer, tasks, timer

    async def _image(self, slot: int, image: EncodedImage, times: Times | None, *, is_one_of_many: bool) -> np.ndarray:
        try:
            loop = asyncio.get_running_loop()
            handed_over = time.perf_counter()
            written = await loop.run_in_executor(self._pool, self._write, slot, image)
            self._meter.written(written, handed_over, times)
            self._dispatcher.pace.decoded(written.ended - written.begun)
            submitted = time.perf_counter()
            scores = await self._dispatcher.scores(slot)
            if times:
                answered, run_began = time.perf_counter(), self._dispatcher.run_began(slot)
                times.engine = max(times.engine, answered - submitted)
                times.stayed(Stage.WAIT, submitted, run_began)
                times.stayed(Stage.INFER, run_began, answered)
            return scores
        except ImageError as error:
            raise named(error, image, is_one_of_many=is_one_of_many) from None
        finally:
            self._dispatcher.release(slot)

    def _write(self, slot: int, image: EncodedImage) -> Written:
        """In a decode thread: bytes -> the slot's input. Raises TimeoutError when nobody waits for it any more."""
        if self._dispatcher.deadline(slot) <= time.monotonic():
            raise TimeoutError
        if image.size_bound > self._limits.max_bytes * BASE64_SLACK + 64:
            raise ImageError(f"{image.size_bound} bytes, at most {self._limits.max_bytes} accepted")
        begun = time.perf_counter()
        file = file_of(image)
        pixels = decode(file, self._limits, self._resize_short)
        decoded = time.perf_counter()
        preprocess(pixels, self._model, self._dispatcher.input(slot))
        ended, count = time.perf_counter(), pixels.size // 3
        del pixels
        give_back(count)  # ``decode`` has done so for all but the image itself
        return Written(FIRST_BYTES[file[0]], begun, decoded, ended)

    def close(self) -> None:
        """Wait for the threads; nothing new may come."""
        self._pool.shutdown()


def _started(threads: int) -> ThreadPoolExecutor:
    """A pool of threads that all run. One that cannot start a thread for a task has queued the task all the same, and
    would write into a slot that is another image's by then."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    together = threading.Barrier(threads)
    try:
        started = [pool.submit(together.wait) for _ in range(threads)]
    except RuntimeError as error:
        together.abort()
        pool.shutdown()
        raise StartupError(f"no {threads} threads to decode images: {error}") from None
    for one in started:
        one.result()
    return pool


def _all_or_first_error(tasks: Sequence["asyncio.Task[np.ndarray]"]) -> "asyncio.Future[None]":
    """Done when every task has succeeded, or with the error of the first that failed, in the order of the request."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    finished = 0  # tasks before this one have succeeded

    def collect(ended: "asyncio.Task[np.ndarray]") -> None:
        nonlocal finished
        if not ended.cancelled():
            ended.exception()  # looked at even where the request has its answer: asyncio logs what nobody looks at
        while finished < len(tasks) and tasks[finished].done() and not answer.done():
            task = tasks[finished]
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                _fail(answer, error)
            finished += 1
        if finished == len(tasks) and not answer.done():
            answer.set_result(None)

    for task in tasks:
        task.add_done_callback(collect)
    return answer


def _fail_late(answer: "asyncio.Future[None]", late: Callable[[], ServiceError]) -> None:
    _fail(answer, late())


def _fail(answer: "asyncio.Future[None]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
