"""Requests -> answers, by the client of paddle_serving_server 0.9.0. Runs on Python 3.9, started by stock.py.

    python stock_client.py HOST:PORT '[{"feed": {"image": "<file>"}, "options": {"log_id": 3}}]'

A value of ``feed`` names a file, which is sent as base64; as an array with ``pack_tensor_format``.
"""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np


def value_of(path, options):
    content = Path(path).read_bytes()
    if options.get("pack_tensor_format"):
        return np.frombuffer(content, np.uint8)
    return base64.b64encode(content).decode()


def main():
    from paddle_serving_server.pipeline import PipelineClient

    client = PipelineClient()
    client.connect([sys.argv[1]])
    answers = []
    for request in json.loads(sys.argv[2]):
        options = request.get("options", {})
        feed = {key: value_of(path, options) for key, path in request["feed"].items()}
        # Else it looks its own host name up, which a network of its own cannot answer
        feed["clientip"] = "127.0.0.1"
        answer = client.predict(feed_dict=feed, fetch=["label", "prob"], **options)
        pairs = {key: answer.value[index] for index, key in enumerate(answer.key)}
        answers.append({"err_no": answer.err_no, "err_msg": answer.err_msg, **pairs})
    print(json.dumps(answers))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SERVING_LOG_PATH"] = folder  # importing stock opens its logs
        main()
