"""The bytes of a gRPC message -> a Request, unless it was built to exhaust memory."""

from __future__ import annotations

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.errors import RpcPackageError

# One message may hold this many fields, those of its tensors included; as many values as a JSON body may hold
MOST_FIELDS = 400_000
_SMALL_MESSAGE = 1 << 20
_TENSORS = 3
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
_VARINT_BYTES = 10


def parse_message(packet: bytes) -> wire.Request:
    """The request in a packet.

    A field may be two bytes on the wire and two hundred in memory, so they are counted before protobuf makes them.
    Raises RpcPackageError beyond MOST_FIELDS, google.protobuf's DecodeError for what is no such message.
    """
    if len(packet) > _SMALL_MESSAGE and _has_more_fields(packet, MOST_FIELDS):
        raise RpcPackageError(f"more than {MOST_FIELDS} fields in one message")
    return wire.Request.FromString(packet)


def _has_more_fields(packet: bytes, most: int) -> bool:
    """Whether the message and its tensors have more fields than that.

    protobuf stops where the encoding breaks, and so does the count. The encoding: protobuf.dev, "Encoding".
    """
    count = position = tensor_end = 0
    try:
        while position < len(packet):
            count += 1
            if count > most:
                return True
            tag, position = _varint(packet, position)
            kind = tag & 7
            if kind == _VARINT:
                position = _varint(packet, position)[1]
            elif kind == _LENGTH:
                length, position = _varint(packet, position)
                if tag >> 3 == _TENSORS and position > tensor_end:
                    tensor_end = position + length
                else:
                    position += length
            else:
                position += _FIXED.get(kind, 0)  # groups begin and end with a tag alone
    except IndexError:
        pass
    return False


def _varint(packet: bytes, position: int) -> tuple[int, int]:
    """The number at ``position`` and where it ends. Raises IndexError where the packet or the encoding ends within."""
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES, 7):
        byte = packet[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError
