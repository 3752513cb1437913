"""The bare loop: decode, preprocess, infer and label in one Python loop, with no server around it.

python -m benchmarks.bare_loop CONFIG BATCH_SIZE IMAGE SECONDS    one line of JSON: a Result
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.load import Result, quantile
from benchmarks.processes import peak_memory
from service.config import load_config
from service.engines import open_engine, warm_up
from service.ops.decode import Limits, decode
from service.ops.label import rank
from service.ops.model import load_model
from service.ops.preprocess import preprocess


def main(config_file: str, batch_size: str, image_file: str, seconds: str) -> None:
    """Images a second, and the seconds of one batch, from base64 text to labels, with the threads of the service."""
    config = load_config(Path(config_file), {})
    model = load_model(Path(config.regnet.local_service_conf.model_config_))
    engine = open_engine(config, model)
    batch = np.empty((int(batch_size), 3, model.height, model.width), np.float32)
    warm_up(engine, model, batch_size=len(batch))
    text = base64.b64encode(Path(image_file).read_bytes())
    limits = Limits()
    latencies = []
    cpu = time.process_time()
    start = now = time.perf_counter()
    while now < start + float(seconds):
        for row in batch:
            preprocess(decode(base64.b64decode(text), limits), model, row)
        for scores in engine.run(batch):
            rank(scores, model.labels, 1)
        done = time.perf_counter()
        latencies.append(done - now)
        now = done
    latencies.sort()
    images = len(latencies) * len(batch)
    rate, cpu = images / (now - start), time.process_time() - cpu
    peak = peak_memory([os.getpid()])
    result = Result(rate, quantile(latencies, 0.5), quantile(latencies, 0.99), images, cpu, peak)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(*sys.argv[1:])
