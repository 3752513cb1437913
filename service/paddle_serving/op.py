"""A request of a stock pipeline -> images -> the model's input; scores -> labels, by the functions of service.ops."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle_serving_server.pipeline import Op, RequestOp  # type: ignore[import-not-found]

from service.contract.encoded_image import PROFILE_KEY, EncodedImage, file_of, image_of, named
from service.contract.npy import Array, read_npy
from service.errors import ImageError
from service.ops.decode import Limits, decode
from service.ops.label import rank
from service.ops.model import Model
from service.ops.preprocess import preprocess
from service.paddle_serving.paddle_import import import_paddle

BYTES = 13  # elem_type of numpy's .npy format
Inputs = Mapping[str, Mapping[str, Any]]
Step = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Recipe:
    """What an op needs to know, known before its process starts."""

    model: Model
    limits: Limits
    scales_jpeg: bool


class SafeRequestOp(RequestOp):  # type: ignore[misc]
    """Stock's unpacking, but arrays of Python objects are refused and never loaded."""

    def proto_tensor_2_numpy(self, tensor: Any) -> tuple[Array, Any]:
        """Name and contract are stock's; what raises here is answered with ``err_no`` 8000."""
        if tensor.elem_type == BYTES:
            return read_npy(tensor.byte_data), None
        array, lod = super().proto_tensor_2_numpy(tensor)
        data = array.tobytes() if array.dtype == np.uint8 else b""
        return Array(str(array.dtype), array.shape, data), lod


class RegnetOp(Op):  # type: ignore[misc]
    """The one op of the pipeline. What raises in it is answered with ``err_no`` 10000 in stock's frame."""

    def __init__(self, recipe: Recipe, **options: Any) -> None:
        super().__init__(**options)
        self._recipe = recipe
        self._one_at_a_time = threading.Lock()

    def _run(self, *arguments: Any) -> None:
        """What stock runs in each process or thread of an op."""
        with self._one_at_a_time:
            import_paddle()
        super()._run(*arguments)

    def process(self, feed_batch: Any, typical_logid: int = 0) -> Step:
        """Stock's inference. NOTE its threads share one predictor and would read each other's scores."""
        with self._one_at_a_time:
            result: Step = super().process(feed_batch, typical_logid)
            return result

    def preprocess(self, input_dicts: Inputs, data_id: int = 0, log_id: int = 0) -> tuple[Any, bool, None, str]:
        """Every key is an image but ``pipeline.profile``; the feed is (images, 3, height, width) float32."""
        (values,) = input_dicts.values()
        images = [image_of(key, value) for key, value in values.items() if key != PROFILE_KEY]
        if not images:
            raise ImageError("need at least one array to concatenate")
        model = self._recipe.model
        batch = np.empty((len(images), 3, model.height, model.width), np.float32)
        for index, image in enumerate(images):
            self._write(image, batch[index], is_one_of_many=len(images) > 1)
        return {model.input_name: batch}, False, None, ""

    def _write(self, image: EncodedImage, out: Any, *, is_one_of_many: bool) -> None:
        model = self._recipe.model
        try:
            pixels = decode(
                file_of(image), self._recipe.limits, model.resize_short if self._recipe.scales_jpeg else None
            )
            preprocess(pixels, model, out)
        except ImageError as error:
            raise named(error, image, is_one_of_many=is_one_of_many) from None

    def postprocess(self, input_data: Any, fetch_data: Any, data_id: int = 0, log_id: int = 0) -> Step:
        """The texts of two Python lists, as PaddleClas's op answers."""
        (scores,) = fetch_data.values()
        best = [rank(row, self._recipe.model.labels, 1)[0] for row in scores]
        labels = [prediction.label.strip().replace(",", "") for prediction in best]
        return {"label": str(labels), "prob": str([prediction.prob for prediction in best])}, None, ""
