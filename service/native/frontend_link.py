"""An engine's connection to one frontend: what it announces, the memory of its slots, and its answers."""

import socket
import time
from dataclasses import dataclass

from service.native.slots import SlotMemory
from service.native.wire import PACKET_BYTES, READY, Status, pack, receive_memory, unpack


@dataclass(frozen=True)
class Waiting:
    """One image that waits for its batch."""

    frontend: "FrontendLink"
    slot: int
    ticket: int
    since: float


class FrontendLink:
    """One connected frontend and the mapped memory of its slots."""

    def __init__(self, connection: socket.socket) -> None:
        """Map the memory that the frontend offers and say READY.

        Raises PermissionError for another user's process, another OSError where the frontend leaves meanwhile.
        """
        self.connection = connection
        self.memory: SlotMemory = receive_memory(connection)
        self._owed: list[tuple[int, Status, int]] = []
        try:
            self.connection.sendall(READY)
        except OSError:
            self.memory.close()
            raise

    @property
    def is_owed(self) -> bool:
        """Whether there are answers that its socket could not take."""
        return bool(self._owed)

    def receive(self) -> list[Waiting]:
        """What the next packet announces. Raises BlockingIOError when none is there, ConnectionError when the frontend
        has gone."""
        packet = self.connection.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
        if not packet:
            raise ConnectionError
        now = time.monotonic()
        return [Waiting(self, slot, ticket, now) for slot, _, ticket in unpack(packet)]

    def answer(self, records: list[tuple[int, Status, int]]) -> None:
        """Tell the frontend, without waiting for one that stands still: others wait for this engine, too."""
        self._owed += records
        self.flush()

    def flush(self) -> None:
        """Tell it all that it is owed, or nothing. One that has gone needs no answer."""
        try:
            self.connection.send(pack(self._owed), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._owed.clear()

    def close(self) -> None:
        """Forget the connection; arrays of a running batch keep the memory mapped until it is done."""
        self.connection.close()
        self.memory.close()
