"""Requests of the .json files here -> the same files with what stock Paddle Serving 0.9.0 answers.

Run with the Python of a stock environment (CPython 3.9; paddle-serving-server, -client and -app 0.9.0, grpcio, opencv):

    python tests/recorded/record.py gateway     # the Go gateway alone, before a server that keeps what arrives
    python tests/recorded/record.py service     # the whole pipeline, with the op of stock_service.py, by HTTP and gRPC
    python tests/recorded/record.py digits      # the whole pipeline with the model of serving_models/digits, raw bytes

To add an exchange, add a line with its request only, then run this. Bytes are written as latin-1 text.
The servers listen on all interfaces (stock cannot do otherwise) at ports 21800 and 21801, for a few seconds.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

import grpc

HERE = Path(__file__).resolve().parent
HTTP_PORT, RPC_PORT = 21800, 21801
REQUEST_PARTS = ("server", "verb", "target", "headers", "body", "pad", "message", "method", "gzip")
METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
GATEWAY = """
import ctypes, os
from paddle_serving_server.pipeline import gateway
library = os.path.join(os.path.dirname(gateway.__file__), "libproxy_server.so")
ctypes.cdll.LoadLibrary(library).run_proxy_server({rpc_port}, {http_port})
"""


def stubs():
    from paddle_serving_server.pipeline.proto import pipeline_service_pb2

    return pipeline_service_pb2


class Keeper(grpc.GenericRpcHandler):
    """Keeps the bytes of the last request; answers with the response that was asked for."""

    def __init__(self):
        self.request, self.response = None, stubs().Response()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.inference)

    def inference(self, request, context):
        self.request = request
        return self.response.SerializeToString()


def exchange(verb="POST", target="/imagenet/prediction", headers=None, body="", *, port=HTTP_PORT):
    """Send one request on a socket of its own and return status, headers and body of the answer."""
    head = {"Host": "stock", "Connection": "close", **(headers or {})}
    content = body.encode("latin-1")
    head.setdefault("Content-Length", str(len(content)))
    lines = [f"{verb} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
    head, _, content = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith("Date:"))
    return {"status": int(status.split()[1]), "answer_headers": fields, "answer": content}


def record_gateway(rows):
    keeper = Keeper()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((keeper,))
    server.add_insecure_port(f"127.0.0.1:{RPC_PORT}")
    server.start()
    wait_until_answered()
    for row in rows:
        keeper.request, keeper.response = None, stubs().Response(**row.get("response", {}))
        sent = {name: row[name] for name in ("verb", "target", "headers", "body") if name in row}
        answer = exchange(**sent)
        request = None if keeper.request is None else base64.b64encode(keeper.request).decode()
        yield {**sent, **{name: row[name] for name in ("response",) if name in row}, "request": request, **answer}
    server.stop(None).wait()


def message(fields):
    """The protobuf Request of a row; ``byte_data`` is latin-1 text there."""
    tensors = [
        stubs().Tensor(**{**tensor, "byte_data": tensor.get("byte_data", "").encode("latin-1")})
        for tensor in fields.get("tensors", ())
    ]
    return stubs().Request(**{**fields, "tensors": tensors})


def json_of(fields):
    """The HTTP body of a row: fields as the gateway takes them."""
    tensors = [
        {**tensor, "byte_data": base64.b64encode(tensor.get("byte_data", "").encode("latin-1")).decode()}
        for tensor in fields.get("tensors", ())
    ]
    return json.dumps({**fields, "tensors": tensors}, ensure_ascii=False).encode().decode("latin-1")


def record_service(rows):
    channel = grpc.insecure_channel(f"127.0.0.1:{RPC_PORT}")
    wait_until_answered()
    infer = channel.unary_unary(METHOD, stubs().Request.SerializeToString, stubs().Response.FromString)
    for row in rows:
        response = infer(message(row["fields"]), timeout=20)
        # NOTE the gateway always overrides `name` and `method` by those of the path
        target = f"/{row['fields'].get('name', 'imagenet')}/{row['fields'].get('method', 'prediction')}"
        http = exchange(target=target, body=json_of(row["fields"]))
        rpc = {
            "err_no": response.err_no,
            "err_msg": response.err_msg,
            "key": list(response.key),
            "value": list(response.value),
        }
        yield {"fields": row["fields"], "rpc": rpc, "status": http["status"], "answer": http["answer"]}


def padded(row):
    """The body of a row: a large one is written with the number of times that an A stands for ``%PAD%``."""
    return row["body"].replace("%PAD%", "A" * row.get("pad", 0))


def record_digits(rows):
    """Rows with a ``body`` go by HTTP, rows with a ``message`` (base64) by gRPC; the bytes of the answers are kept."""
    channel = grpc.insecure_channel(f"127.0.0.1:{RPC_PORT}")
    wait_until_answered()
    for row in rows:
        asked = {name: row[name] for name in ("about", *REQUEST_PARTS) if name in row}
        if "message" not in row:
            sent = {name: row[name] for name in ("verb", "target", "headers") if name in row}
            yield {**asked, **exchange(**sent, body=padded(row))}
            continue
        compression = grpc.Compression.Gzip if row.get("gzip") else None
        call = channel.unary_unary(row.get("method", METHOD))
        try:
            response = call(base64.b64decode(row["message"]), timeout=20, compression=compression)
            yield {**asked, "code": "OK", "response": base64.b64encode(response).decode()}
        except grpc.RpcError as error:
            yield {**asked, "code": error.code().name, "details": error.details()}


def wait_until_answered():
    """The gateway answers 503 until the server behind it is up and its own backoff has passed."""
    wait_until(lambda: exchange()["status"] != 503)


def wait_until(answered):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if answered():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"no answer at port {HTTP_PORT}")


def record_without_server(rows):
    """The gateway alone, with nobody behind it."""
    wait_until(lambda: exchange())
    for row in rows:
        yield {**{name: row[name] for name in ("about", *REQUEST_PARTS) if name in row}, **exchange(body=row["body"])}


def command_of(name, server):
    """What to start for the rows of a file that name that server."""
    ports = [str(RPC_PORT), str(HTTP_PORT)]
    if name == "gateway" or server == "down":
        return [sys.executable, "-c", GATEWAY.format(rpc_port=RPC_PORT, http_port=HTTP_PORT)]
    if name == "service":
        return [sys.executable, str(HERE / "stock_service.py"), *ports]
    return [
        sys.executable,
        str(HERE / "stock_digits.py"),
        *ports,
        str(HERE.parents[1] / "serving_models/digits"),
        server,
    ]


def record(name, server, rows):
    """The rows with their answers, from a server of their own."""
    recorders = {"gateway": record_gateway, "service": record_service, "digits": record_digits}
    recorder = record_without_server if server == "down" else recorders[name]
    with tempfile.TemporaryDirectory() as folder:
        # Importing the server, as this process does for its stubs, opens its logs, which do not belong here
        os.environ["SERVING_LOG_PATH"] = folder
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # A session of its own: killing its group takes the gateway that stock leaves behind with it
        process = subprocess.Popen(command_of(name, server), cwd=folder, start_new_session=True, **quiet)
        try:
            return list(recorder(rows))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(name):
    path = HERE / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    servers = dict.fromkeys(row.get("server", "plain") for row in rows)
    recorded = [
        row
        for server in servers
        for row in record(name, server, [row for row in rows if row.get("server", "plain") == server])
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in recorded)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
