"""A child process and its supervisor: how it is started, spoken to, and made sure to end with its parent."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from service.native.logs import set_up_logging

PR_SET_PDEATHSIG = 1
LINE_BYTES = 1 << 20
MOST_DESCRIPTORS = 253  # that Linux passes in one message


class Control:
    """JSON messages, one a packet, between the supervisor and one child; its end is the order to stop."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """The descriptor, for a selector or an event loop."""
        return self._connection.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Say something, with copies of ``descriptors``; a partner that has gone does not hear it."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._connection, [json.dumps(message).encode()], descriptors)

    def receive(self) -> dict[str, Any]:
        """The next message; what came with it is ``descriptors``. Raises EOFError when the partner has gone."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._connection, LINE_BYTES, MOST_DESCRIPTORS)
        except ConnectionError:
            packet, descriptors = b"", []
        if not packet:
            raise EOFError
        message: dict[str, Any] = json.loads(packet)
        return message | {"descriptors": descriptors} if descriptors else message

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def control_pair() -> tuple[Control, socket.socket]:
    """The supervisor's end, and the socket that the child inherits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Control(ours), theirs


def become_child() -> Control:
    """What every child does first; its arguments are its end of the control pair and the supervisor's process id."""
    # A child that is stuck in a vendor's library does not see the control connection end; the kernel ends it.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C and the end of a terminal reach the whole process group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_up_logging()
    if os.getppid() != int(sys.argv[2]):
        sys.exit(0)  # the supervisor died before prctl took effect
    return Control(socket.socket(fileno=int(sys.argv[1])))
