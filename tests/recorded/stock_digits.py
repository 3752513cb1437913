"""A stock 0.9.0 pipeline with PaddleClas's op (deploy/paddleserving) for the bundled digits model, plain and unhardened.

Started by record.py with the two ports, the folder of the serving model (serving_models/digits) and one of

    plain      as PaddleClas has it
    workers    with build_dag_each_worker
    product    its op answers with an error number of its own
    aliases    its op feeds an input that the model does not have
    profile    its op does not take the key pipeline.profile for an image
"""

import base64
import sys
from pathlib import Path

import cv2
import numpy as np
from paddle_serving_app.reader import RGB2BGR, CenterCrop, Div, Normalize, Resize, Sequential, Transpose
from paddle_serving_server.pipeline import Op
from paddle_serving_server.web_service import WebService

MODEL, KIND = Path(sys.argv[3]), sys.argv[4]


class DigitsOp(Op):
    def init_op(self):
        half = [0.5, 0.5, 0.5]
        steps = [Resize(32), CenterCrop(32), RGB2BGR(), Transpose((2, 0, 1)), Div(255), Normalize(half, half, True)]
        self.seq = Sequential(steps)
        self.labels = (MODEL / "labels.txt").read_text().splitlines()

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        imgs = []
        for key in input_dict:
            if KIND == "profile" and key == "pipeline.profile":
                continue
            data = base64.b64decode(input_dict[key].encode("utf8"))
            im = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            imgs.append(self.seq(im)[np.newaxis, :].copy())
        if KIND == "product":
            return None, False, 51, "product says no"
        return {"inputs" if KIND == "aliases" else "x": np.concatenate(imgs, axis=0)}, False, None, ""

    def postprocess(self, input_data, fetch_data, data_id, log_id):
        result = {"label": [], "prob": []}
        for score in next(iter(fetch_data.values())).tolist():
            result["label"].append(self.labels[score.index(max(score))].strip().replace(",", ""))
            result["prob"].append(max(score))
        return {key: str(value) for key, value in result.items()}, None, ""


class DigitsService(WebService):
    def get_pipeline_response(self, read_op):
        return DigitsOp(name="imagenet", input_ops=[read_op])


if __name__ == "__main__":
    service = DigitsService(name="imagenet")
    local = {
        "client_type": "local_predictor",
        "model_config": str(MODEL / "serving_server"),
        "use_mkldnn": True,
        "ir_optim": True,
        "fetch_list": ["prediction"],
    }
    service.prepare_pipeline_config(
        yml_dict={
            "rpc_port": int(sys.argv[1]),
            "http_port": int(sys.argv[2]),
            "worker_num": 2,
            "build_dag_each_worker": KIND == "workers",
            "dag": {"is_thread_op": True},
            "op": {"imagenet": {"concurrency": 1, "local_service_conf": local}},
        }
    )
    service.run_service()
