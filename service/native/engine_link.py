"""A frontend's connection to one engine: it is made again whenever it is lost, for as long as the frontend lives."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from service.native.slots import SlotMemory
from service.native.vitals import Vitals
from service.native.wire import PACKET_BYTES, READY, Status, pack, send_memory, unpack

RECONNECT_SECONDS = 0.05


class EngineLink:
    """One engine as the event loop sees it. ``load`` counts the slots that it owes an answer for."""

    def __init__(self, address: bytes, memory: SlotMemory, vitals: Vitals | None = None) -> None:
        """``address``: the engine's abstract socket, ``vitals`` its own. The dispatcher sets the two callbacks."""
        self._address = address
        self._memory = memory
        self._vitals = vitals
        self._socket: socket.socket | None = None
        self._unsent: deque[bytes] = deque()
        self._lost = asyncio.Event()
        self.on_answers: Callable[[EngineLink, Sequence[tuple[int, int, int]]], None]
        self.on_change: Callable[[EngineLink], None]
        self.load = 0

    @property
    def is_up(self) -> bool:
        """The engine has warmed up and is connected."""
        return self._socket is not None

    @property
    def is_stuck(self) -> bool:
        """The engine is connected and does nothing. What it owes stays with it: it could go on, and write."""
        return self._vitals is not None and bool(self._vitals.trouble())

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        while True:
            try:
                connection = await self._connect()
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await self._serve(connection)
            finally:
                connection.close()

    def send(self, records: Iterable[tuple[int, int]]) -> None:
        """Announce (slot, ticket) records; what the socket cannot take now follows when it can."""
        packet = pack((slot, Status.WAITING, ticket) for slot, ticket in records)
        if self._socket is None:
            return
        if self._unsent:
            self._unsent.append(packet)
            return
        try:
            self._socket.send(packet)
        except BlockingIOError:
            self._unsent.append(packet)
            asyncio.get_running_loop().add_writer(self._socket, self._flush)
        except OSError:
            self._lost.set()

    async def _connect(self) -> socket.socket:
        """A connection on which the engine has said READY."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(self._address)  # a Unix socket: at once, or refused
            send_memory(connection, self._memory)
            connection.setblocking(False)
            if await loop.sock_recv(connection, PACKET_BYTES) != READY:
                raise ConnectionError("the engine left before it was ready")
        except BaseException:
            connection.close()
            raise
        return connection

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = connection
        self._unsent.clear()
        self._lost.clear()
        self.load = 0
        loop.add_reader(connection, self._receive, connection)
        try:
            self.on_change(self)
            await self._lost.wait()
        finally:
            loop.remove_reader(connection)
            loop.remove_writer(connection)
            self._socket = None
            self.on_change(self)

    def _receive(self, connection: socket.socket) -> None:
        try:
            packet = connection.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            asyncio.get_running_loop().remove_reader(connection)
            self._lost.set()
        self.on_answers(self, list(unpack(packet)))

    def _flush(self) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(BlockingIOError, OSError):
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self._socket)
