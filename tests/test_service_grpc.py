"""The gRPC door of a running service: the pipeline method, health and reflection, over a real channel."""

from __future__ import annotations

import base64
import io

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from regnetx_client.wire import pipeline_service_pb2 as wire
from serving_models.bundled.digits.held_out import held_out

SERVICE = "baidu.paddle_serving.pipeline_serving.PipelineService"
DIGIT = held_out().images[0]
TEXT = base64.b64encode(DIGIT).decode()


@pytest.fixture(scope="module")
def channel(service):
    with grpc.insecure_channel(service.rpc) as channel:
        yield channel


def infer(channel, request, **options):
    packet = request if isinstance(request, bytes) else request.SerializeToString()
    method = channel.unary_unary(f"/{SERVICE}/inference", response_deserializer=wire.Response.FromString)
    return method(packet, timeout=30, **options)


def test_key_and_value(channel):
    answer = infer(channel, wire.Request(key=["image"], value=[TEXT]))
    assert (answer.err_no, answer.err_msg, list(answer.key)) == (0, "", ["label", "prob"])


def test_metadata_of_up_to_16_kib_is_taken(channel):
    request = wire.Request(key=["image"], value=[TEXT])
    assert infer(channel, request, metadata=(("x-note", "a" * 15_000),)).err_no == 0
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel, request, metadata=(("x-note", "a" * 17_000),))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_message_built_to_exhaust_memory_is_refused_in_band(channel, service):
    answer = infer(channel, wire.Request(tensors=[wire.Tensor()] * 3_000_000))
    assert (answer.err_no, answer.err_msg) == (8000, "rpc package error: more than 400000 fields in one message")
    assert infer(channel, wire.Request(key=["image"], value=[TEXT])).err_no == 0


def test_an_image_as_millions_of_numbers_is_read(channel):
    padded = DIGIT + bytes(2_000_000)
    tensor = wire.Tensor(name="image", elem_type=7, uint32_data=padded, shape=[len(padded)])
    answer = infer(channel, wire.Request(tensors=[tensor]))
    assert answer.err_no == 0


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "tensor",
    [
        wire.Tensor(name="image", elem_type=12, str_data=[TEXT], shape=[1]),
        wire.Tensor(name="image", elem_type=12, str_data=[TEXT[:8], TEXT[8:]], shape=[2]),
        wire.Tensor(name="image", elem_type=7, uint32_data=DIGIT, shape=[len(DIGIT)]),
        wire.Tensor(name="image", elem_type=13, byte_data=npy(np.frombuffer(DIGIT, np.uint8))),
    ],
    ids=["text", "text in pieces", "uint8", "npy"],
)
def test_tensors_say_the_same_as_text(channel, tensor):
    by_text = infer(channel, wire.Request(key=["image"], value=[TEXT]))
    assert infer(channel, wire.Request(tensors=[tensor])) == by_text


def test_an_array_that_is_no_encoded_image_is_told_what_is_accepted(channel):
    tensor = wire.Tensor(name="image", elem_type=1, float_data=[0.5] * 12, shape=[3, 2, 2])
    answer = infer(channel, wire.Request(tensors=[tensor]))
    assert answer.err_no == 10000
    assert "float32" in answer.err_msg and "(3, 2, 2)" in answer.err_msg and "accepted" in answer.err_msg


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (wire.Request(name="imagenet", key=["image"], value=[TEXT]), 3002),
        (wire.Request(name="regnet", method="whatever", key=["image"], value=[TEXT]), 0),
        (wire.Request(key=["image"]), 8000),
        (wire.Request(), 10000),
        (wire.Request(tensors=[wire.Tensor(name="s", elem_type=10)]), 8000),
        (wire.Request(tensors=[wire.Tensor(name="s", elem_type=99)]), 8000),
        (wire.Request(key=["image", "pipeline.profile"], value=[TEXT, "1"]), 0),
    ],
)
def test_err_no_is_answered_with_status_ok(channel, request_, number):
    assert infer(channel, request_).err_no == number


def test_an_object_array_is_refused_from_this_door_too(channel):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    answer = infer(channel, wire.Request(tensors=[wire.Tensor(name="image", elem_type=13, byte_data=file.getvalue())]))
    assert answer.err_no == 8000


def test_top_k_by_metadata(channel):
    answer = infer(channel, wire.Request(key=["image"], value=[TEXT]), metadata=[("x-top-k", "2")])
    assert list(answer.key) == ["label", "prob", "top_k"]
    with pytest.raises(grpc.RpcError) as refusal:
        infer(channel, wire.Request(key=["image"], value=[TEXT]), metadata=[("x-top-k", "0")])
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "whole number from 1" in refusal.value.details()


@pytest.mark.parametrize(
    ("path", "packet", "code", "details"),
    [
        (f"/{SERVICE}/inference", b"\xff\xff", grpc.StatusCode.INTERNAL, "Exception deserializing request!"),
        (f"/{SERVICE}/nothing", b"", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    ],
)
def test_what_grpc_itself_refuses(channel, path, packet, code, details):
    with pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(path)(packet, timeout=30)
    assert (refusal.value.code(), refusal.value.details()) == (code, details)


def test_gzip_is_taken(channel):
    assert infer(channel, wire.Request(key=["image"], value=[TEXT]), compression=grpc.Compression.Gzip).err_no == 0


@pytest.mark.parametrize("name", ["", SERVICE])
def test_health_check_and_watch(channel, name):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    assert stub.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
    listed = stub.List(health_pb2.HealthListRequest(), timeout=30).statuses
    assert listed[name].status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request, timeout=30)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_describes_the_pipeline_service(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest
    questions = [ask(list_services=""), ask(file_containing_symbol=SERVICE)]
    listing, file = stub.ServerReflectionInfo(iter(questions), timeout=30)
    names = {service.name for service in listing.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    assert file.file_descriptor_response.file_descriptor_proto
