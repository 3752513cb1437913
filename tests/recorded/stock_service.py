"""A stock 0.9.0 pipeline whose op does with images what PaddleClas's does, and needs no model.

An image's width in pixels chooses the label; a width of 4 makes inference time out, 5 makes it fail.
Started by record.py with the two ports.
"""

import base64
import sys
import time

import cv2
import numpy as np
from paddle_serving_app.reader import CenterCrop, Resize, Sequential
from paddle_serving_server.pipeline import Op
from paddle_serving_server.web_service import WebService

LABELS = ["tench,", "daisy", 'jack-o"-lantern', "it's, <b>&é"]
SEQ = Sequential([Resize(256), CenterCrop(224)])
# float32 values, as a model's softmax gives them
BEST = np.array([0.9341402, 0.5, 1.0, 1e-7], np.float32)


class StubOp(Op):
    def init_from_dict(self, conf):
        super().init_from_dict(conf)
        self.with_serving = True

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        imgs, widths = [], []
        for key in input_dict:
            data = base64.b64decode(input_dict[key].encode("utf8"))
            im = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            imgs.append(SEQ(im)[np.newaxis, :].copy())
            widths.append(im.shape[1])
        np.concatenate(imgs, axis=0)
        return {"inputs": np.array(widths)}, False, None, ""

    def process(self, feed_batch, typical_logid=0):
        widths = feed_batch[0]["inputs"]
        if 4 in widths:
            time.sleep(1)
        if 5 in widths:
            raise RuntimeError("the 'engine' failed")
        return {"prediction": widths % 4}, 0, ""

    def postprocess(self, input_data, fetch_data, data_id, log_id):
        result = {"label": [], "prob": []}
        for index in fetch_data["prediction"].tolist():
            result["label"].append(LABELS[index].strip().replace(",", ""))
            result["prob"].append(BEST.tolist()[index])
        if fetch_data["prediction"].tolist() == [2, 2, 2]:
            return {"prob": 0.5}, None, ""
        return {key: str(value) for key, value in result.items()}, None, ""


class StubService(WebService):
    def get_pipeline_response(self, read_op):
        return StubOp(name="imagenet", input_ops=[read_op])


if __name__ == "__main__":
    service = StubService(name="imagenet")
    service.prepare_pipeline_config(
        yml_dict={
            "rpc_port": int(sys.argv[1]),
            "http_port": int(sys.argv[2]),
            "worker_num": 2,
            "dag": {"is_thread_op": True},
            "op": {"imagenet": {"concurrency": 1, "timeout": 300, "retry": 1}},
        }
    )
    service.run_service()
