"""Predictions or a failure -> the answer of a Paddle Serving pipeline, for both doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.gateway import Answer, failure, success
from service.contract.json_text import go_json, valid_text
from service.errors import (
    DrainingError,
    EngineError,
    ErrNo,
    ImageError,
    OpTimeoutError,
    RpcPackageError,
    ServiceError,
    ServiceNameError,
)

_PREPROCESS = (
    "Log_id: {logid}  Raise_msg: {unquoted}  "
    "ClassName: Op._run_preprocess.<locals>.preprocess_help  FunctionName: preprocess_help"
)
_PROCESS = (
    "[{op}] failed to predict. (%slog_id={logid}) [{op}|0] Failed to process(batch: [{logid}]): {text}. "
    "Please check the input dict and checkout PipelineServingLogs/pipeline.log for more details."
)
# The sentences of stock 0.9.0 (operator.py, dag.py, pipeline_server.py). NOTE where stock shows its internal counter
# of requests (data_id), as it does even behind "log_id=" in a failed process step, the log id stands here.
_SENTENCES: dict[type[ServiceError], str] = {
    ServiceNameError: "{text}",
    RpcPackageError: "rpc package error: {text}",
    ImageError: _PREPROCESS,
    EngineError: _PROCESS % "data_id={logid} ",
    OpTimeoutError: (_PROCESS % "").replace("{text}", "exceeded retry count."),
    DrainingError: "dag closed.",
}


class Ranked(Protocol):
    """One class of an image's answer (service.ops.label.Prediction)."""

    @property
    def class_id(self) -> int: ...

    @property
    def label(self) -> str: ...

    @property
    def prob(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PipelineResponse:
    """``Response`` of pipeline_service.proto without its tensors, which a pipeline never fills."""

    err_no: int = 0
    err_msg: str = ""
    key: Sequence[str] = ()
    value: Sequence[str] = ()


def respond(predictions: Sequence[Sequence[Ranked]], top_k: int | None = None) -> PipelineResponse:
    """The answer to one request: its images in order, for each its classes best first, at least one.

    ``label`` and ``prob`` are the texts of Python lists, as PaddleClas's op makes them, of the best class of every
    image. With ``top_k``, a third key holds up to that many classes of every image as JSON.
    """
    best = [ranked[0] for ranked in predictions]
    label = str([prediction.label.strip().replace(",", "") for prediction in best])
    prob = str([prediction.prob for prediction in best])
    if top_k is None:
        return PipelineResponse(key=("label", "prob"), value=(label, prob))
    classes = [[_as_json(prediction) for prediction in ranked[:top_k]] for ranked in predictions]
    return PipelineResponse(key=("label", "prob", "top_k"), value=(label, prob, orjson.dumps(classes).decode()))


def _as_json(prediction: Ranked) -> dict[str, object]:
    return {"class_id": prediction.class_id, "label": prediction.label, "prob": prediction.prob}


def in_band(error: ServiceError, logid: int, op: str) -> PipelineResponse:
    """The answer that carries ``err_no``; ``op`` is the name of the op in config.yml."""
    sentence = next((_SENTENCES[base] for base in type(error).__mro__ if base in _SENTENCES), "{text}")
    text = valid_text(str(error))
    message = sentence.format(logid=logid, op=op, text=text, unquoted=text.replace("'", ""))
    return PipelineResponse(err_no=int(error.err_no or ErrNo.UNKNOWN), err_msg=message)


def error_answer(error: Exception, logid: int, op: str) -> Answer:
    """The HTTP answer to a failure: in band (status 200) where its class says so, at the door otherwise."""
    if isinstance(error, ServiceError) and error.err_no is not None:
        return success(render(in_band(error, logid, op)))
    return failure(error)


def render(response: PipelineResponse) -> bytes:
    """The HTTP body: every field, in this order."""
    return go_json(
        {
            "err_no": response.err_no,
            "err_msg": response.err_msg,
            "key": response.key,
            "value": response.value,
            "tensors": [],
        }
    )


def to_message(response: PipelineResponse) -> wire.Response:
    """The gRPC message."""
    return wire.Response(err_no=response.err_no, err_msg=response.err_msg, key=response.key, value=response.value)
