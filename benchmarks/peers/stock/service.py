"""Paddle Serving's own web service, with one op of its own image transforms. `python service.py config.yml`.

What its documents tell a user to write for a classifier, with its faults of performance; runs in the stock environment.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

import cv2
import numpy as np
import yaml
from paddle_serving_app.reader import BGR2RGB, CenterCrop, Div, Normalize, Resize, Sequential, Transpose
from paddle_serving_server.web_service import Op, WebService

with open(sys.argv[1], encoding="utf-8") as file:
    CONFIG: dict[str, Any] = yaml.safe_load(file)
with open(os.environ["PEER_MODEL"], encoding="utf-8") as file:
    FACTS: dict[str, Any] = json.load(file)
(NAME,) = CONFIG["op"]


class ImageOp(Op):
    """Images in base64 -> label and score of each."""

    def init_op(self) -> None:
        self.transforms = Sequential(
            [
                Resize(FACTS["resize_short"]),
                CenterCrop(FACTS["width"]),
                BGR2RGB(),
                Div(1 / FACTS["scale"]),
                Normalize(FACTS["mean"], FACTS["std"]),
                Transpose((2, 0, 1)),
            ]
        )

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        (values,) = input_dicts.values()
        images = []
        for value in values.values():
            pixels = cv2.imdecode(np.frombuffer(base64.b64decode(value), np.uint8), cv2.IMREAD_COLOR)
            images.append(self.transforms(pixels))
        return {FACTS["input_name"]: np.stack(images).astype(np.float32)}, False, None, ""

    def postprocess(self, input_data: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:
        (scores,) = fetch_data.values()
        best = scores.argmax(axis=1)
        labels = [FACTS["labels"][index] for index in best]
        return {"label": str(labels), "prob": str([float(row[i]) for i, row in zip(best, scores)])}, None, ""  # noqa: B905


class ImageService(WebService):
    """One op behind stock's two doors."""

    def get_pipeline_response(self, read_op: Any) -> Any:
        return ImageOp(name=NAME, input_ops=[read_op])


service = ImageService(name=NAME)
service.prepare_pipeline_config(yml_dict=CONFIG)
service.run_service()
