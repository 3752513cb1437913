"""What a frontend and an engine say to each other over their Unix socket; the tensors stay in shared memory.

A SOCK_SEQPACKET connection. The frontend opens it with one JSON packet that carries the descriptor of its slot memory
(SCM_RIGHTS); the engine answers READY, which it can only do after its warm-up. From then on a packet is one or more
8-byte records, in both directions.
"""

import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import IntEnum

from service.native.slots import SlotLayout, SlotMemory

READY = b"ready"
PACKET_BYTES = 65536  # more than the records of all 4096 slots
HELLO_SECONDS = 5.0
RECORD = struct.Struct("<HHI")  # slot, status, ticket


class Status(IntEnum):
    """What a record says of its slot."""

    WAITING = 0  # to the engine: the input is written
    DONE = 1  # to the frontend: the scores are written
    FAILED = 2  # the engine could not run the batch
    EXPIRED = 3  # its deadline had passed, nothing was run


def pack(records: Iterable[tuple[int, Status, int]]) -> bytes:
    """Records of (slot, status, ticket) as one packet."""
    return b"".join(RECORD.pack(*record) for record in records)


def unpack(packet: bytes) -> Iterator[tuple[int, int, int]]:
    """The (slot, status, ticket) of each record of a packet."""
    return RECORD.iter_unpack(packet)


def send_memory(connection: socket.socket, memory: SlotMemory) -> None:
    """Open the conversation: the layout, and the descriptor that it describes."""
    socket.send_fds(connection, [json.dumps(asdict(memory.layout)).encode()], [memory.descriptor])


def receive_memory(connection: socket.socket) -> SlotMemory:
    """The other side of ``send_memory``.

    Raises PermissionError if the peer is another user's process, another OSError if it leaves in the middle.
    """
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.geteuid():
        raise PermissionError(f"a process of user {user} tried to connect")
    connection.settimeout(HELLO_SECONDS)
    packet, descriptors, _, _ = socket.recv_fds(connection, PACKET_BYTES, 1)
    connection.settimeout(None)
    if not descriptors:
        raise ConnectionError("the frontend left before it said anything")
    return SlotMemory(SlotLayout(**json.loads(packet)), descriptors[0])
