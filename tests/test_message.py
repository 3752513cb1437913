"""A gRPC message is read as protobuf reads it, unless it has more fields than any request."""

import random

import pytest
from google.protobuf.message import DecodeError

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract import message
from service.contract.message import MOST_FIELDS, parse_message
from service.errors import RpcPackageError

FILLER = wire.Request(value=["x" * (1 << 20)]).SerializeToString()  # so that the fields are counted
NUMBERS = wire.Request(tensors=[wire.Tensor(elem_type=7, uint32_data=[200] * (1 << 20))]).SerializeToString()


def many(field, count=MOST_FIELDS + 1):
    """A message of so many fields of two bytes and more."""
    return wire.Request(**field(count)).SerializeToString() + FILLER


BOMBS = {
    "keys": many(lambda count: {"key": [""] * count}),
    "tensors": many(lambda count: {"tensors": [wire.Tensor()] * count}),
    "texts of a tensor": many(lambda count: {"tensors": [wire.Tensor(str_data=[""] * count)]}),
    "behind packed numbers that look like fields": FILLER
    + wire.Request(tensors=[wire.Tensor(int_data=[0x7F] * 8, str_data=[""] * MOST_FIELDS)]).SerializeToString(),
    "numbers that are not packed": FILLER + b"\x30\x01" * (MOST_FIELDS + 1),
    "unknown fields": FILLER + b"\xfd\x7f\x00\x00\x00\x00" * (MOST_FIELDS + 1),
    "unknown groups": FILLER + b"\xfb\x7f\xfc\x7f" * MOST_FIELDS,
}


@pytest.mark.parametrize("packet", BOMBS.values(), ids=list(BOMBS))
def test_a_message_with_too_many_fields_is_refused_before_it_is_made(packet, monkeypatch):
    monkeypatch.setattr(message, "wire", None)  # what would make it
    with pytest.raises(RpcPackageError, match=f"more than {MOST_FIELDS} fields in one message"):
        parse_message(packet)


@pytest.mark.parametrize(
    "packet",
    [FILLER + many(lambda count: {"key": ["a"] * count}, count=MOST_FIELDS - 3), NUMBERS, b"", FILLER],
    ids=["fields up to the bound", "packed numbers are one field", "empty", "one large field"],
)
def test_others_are_read_as_protobuf_reads_them(packet):
    assert parse_message(packet) == wire.Request.FromString(packet)


@pytest.mark.parametrize(
    "ending",
    [b"\x0a", b"\x0a\x05abc", b"\xff" * 11, b"\x0a" + b"\xff" * (1 << 20), b"\x07", b"\x1a\xff\x01\x0a", b"\x0b"],
    ids=lambda ending: ending[:12].hex(),
)
def test_what_is_no_message_is_protobufs_to_refuse(ending):
    with pytest.raises(DecodeError):
        parse_message(FILLER + ending)


def test_the_count_never_disagrees_with_protobuf_about_what_there_is():
    chance = random.Random(6)
    for _ in range(300):
        tensors = [
            wire.Tensor(
                name="t" * chance.randrange(300),
                str_data=["s"] * chance.randrange(5),
                int_data=[chance.randrange(2**31) for _ in range(chance.randrange(40))],
                byte_data=chance.randbytes(chance.randrange(200)),
                elem_type=chance.randrange(14),
            )
            for _ in range(chance.randrange(4))
        ]
        request = wire.Request(key=["k"] * chance.randrange(6), tensors=tensors, logid=chance.randrange(9))
        fields = len(request.key) + (request.logid != 0) + sum(map(fields_of, tensors)) + len(tensors)
        packet = request.SerializeToString()
        assert not message._has_more_fields(packet, fields)
        assert fields == 0 or message._has_more_fields(packet, fields - 1)


def fields_of(tensor):
    return sum(len(value) if field.name == "str_data" else 1 for field, value in tensor.ListFields())
