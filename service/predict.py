"""Image files -> ranked predictions in this process, through the same stations as the service but without a server."""

from pathlib import Path

import numpy as np

from service.config import Config
from service.engines import open_engine
from service.ops.decode import Limits, decode
from service.ops.label import Prediction, rank
from service.ops.model import load_verified
from service.ops.preprocess import preprocess


class LocalClassifier:
    """One engine, one image at a time."""

    def __init__(self, config: Config) -> None:
        """Load the model. Raises ConfigError or ModelError."""
        self._model = load_verified(Path(config.regnet.local_service_conf.model_config_))
        self._engine = open_engine(config, self._model)
        self._limits = Limits(max_bytes=config.native.max_image_bytes, max_pixels=config.native.max_image_pixels)
        self._resize_short = self._model.resize_short if config.native.scales_jpeg else None
        self._input = np.empty((1, 3, self._model.height, self._model.width), np.float32)

    def classify(self, path: Path, *, top_k: int) -> list[Prediction]:
        """The ``top_k`` best classes of an image file. Raises OSError, ImageError or EngineError."""
        with path.open("rb") as file:
            image = file.read(self._limits.max_bytes + 1)  # one too many is enough to be told so
        preprocess(decode(image, self._limits, self._resize_short), self._model, self._input[0])
        return rank(self._engine.run(self._input)[0], self._model.labels, top_k)
