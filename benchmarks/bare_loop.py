"""The bare loop: read, decode, preprocess and infer in one Python loop, with no server around it."""

from __future__ import annotations

import base64
import time

import numpy as np

from benchmarks.load import Result, quantile
from service.config import Config
from service.engines import open_engine, warm_up
from service.ops.decode import Limits, decode
from service.ops.label import rank
from service.ops.model import Model
from service.ops.preprocess import preprocess


class BareLoop:
    """One engine with the settings of the service; batches of ``batch_size`` images decoded one after the other."""

    def __init__(self, config: Config, model: Model, *, batch_size: int) -> None:
        self._engine = open_engine(config, model)
        self._model = model
        self._batch = np.empty((batch_size, 3, model.height, model.width), np.float32)
        warm_up(self._engine, model, batch_size=batch_size)

    def run(self, text: bytes, seconds: float) -> Result:
        """Images a second, and the time of one batch, from base64 text to labels."""
        limits = Limits()
        latencies = []
        start = now = time.perf_counter()
        while now < start + seconds:
            for row in self._batch:
                preprocess(decode(base64.b64decode(text), limits), self._model, row)
            for scores in self._engine.run(self._batch):
                rank(scores, self._model.labels, 1)
            done = time.perf_counter()
            latencies.append(done - now)
            now = done
        latencies.sort()
        images = len(latencies) * len(self._batch)
        return Result(images / (now - start), quantile(latencies, 0.5), quantile(latencies, 0.99))
