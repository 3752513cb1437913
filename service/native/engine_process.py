"""The engine process: loads the model, hears frontends, feeds the batcher. One predictor, one thread, no asyncio."""

import logging
import os
import selectors
import signal
import socket
import sys

from service.config import Config
from service.errors import StartupError
from service.native.batcher import Batcher, Engines, RunMeter
from service.native.child import Control, become_child
from service.native.frontend_link import FrontendLink
from service.native.logs import set_up_logging
from service.native.metric_block import Block
from service.native.same_model import require_noted, shared_model
from service.native.vitals import BEAT_SECONDS, Vitals

log = logging.getLogger("regnetx.engine")

STUCK_SECONDS = 60  # and so many more for each image of a batch: no run takes that long
STUCK_SECONDS_PER_IMAGE = 5
# Before that it is only taken for stuck: when a run takes longer than twice the whole warm-up, than ten times the
# longest run until then, and than this.
LEAST_PATIENCE_SECONDS = 5.0
WARM_UPS_OF_PATIENCE = 2
# In a row, whatever is asked for: out of memory, or a device that has fallen over. A new process begins anew.
MOST_FAILED_RUNS = 3
# On the CPU: a frontend that waits for a core behind a run of the model cannot even refuse. A GPU must not wait.
NICENESS = 5


class BrokenError(Exception):
    """The engine does not run any more; one readable line."""


class EngineServer:
    """Listens for frontends and feeds the batcher until the supervisor hangs up."""

    def __init__(
        self,
        batcher: Batcher,
        listener: socket.socket,
        control: Control,
        vitals: Vitals,
        *,
        stuck_after: int = STUCK_SECONDS,
    ) -> None:
        """``stuck_after``: seconds of one run after which the process ends, for the supervisor to start another."""
        self._batcher = batcher
        self._vitals = vitals
        self._stuck_after = stuck_after
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)
        self._control = control

    def run(self) -> None:
        """Serve until the control connection ends, which is the supervisor's word to stop, or its death.

        Raises BrokenError when the engine has failed too often in a row.
        """
        while True:
            self._vitals.beat()
            wait = self._batcher.wait_for()
            for key, events in self._selector.select(BEAT_SECONDS if wait is None else min(wait, BEAT_SECONDS)):
                if key.fileobj is self._control:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data, events)
            if self._batcher.wait_for() == 0.0:
                self._run_next()

    def _run_next(self) -> None:
        # The kernel ends the process; nothing in it could while the vendor's code holds the interpreter.
        signal.alarm(self._stuck_after)
        self._vitals.begin_run()
        self._batcher.run_next()
        self._vitals.end_run()
        signal.alarm(0)
        for frontend in self._batcher.frontends:
            if frontend.is_owed:
                self._selector.modify(frontend.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, frontend)
        if self._batcher.failed_runs >= MOST_FAILED_RUNS:
            raise BrokenError(f"the last {MOST_FAILED_RUNS} runs of the model have failed")

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            frontend = FrontendLink(connection)
        except PermissionError as error:
            log.warning("refused a connection: %s", error)
            connection.close()
        except OSError:
            connection.close()  # a frontend that ended while it waited to be heard
        else:
            self._batcher.frontends.add(frontend)
            self._selector.register(connection, selectors.EVENT_READ, frontend)

    def _hear(self, frontend: FrontendLink, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            frontend.flush()
            self._selector.modify(frontend.connection, selectors.EVENT_READ, frontend)
        if events & selectors.EVENT_READ:
            self._receive(frontend)

    def _receive(self, frontend: FrontendLink) -> None:
        """Everything that it has announced meanwhile: what stays in the socket is in no batch."""
        try:
            while True:
                self._batcher.waiting.extend(frontend.receive())
        except BlockingIOError:
            return
        except OSError:
            self._selector.unregister(frontend.connection)
            self._batcher.forget(frontend)
            frontend.close()


def main() -> None:
    """Started by the supervisor: loads, warms up, says ready, serves."""
    control = become_child()
    order = control.receive()
    config = Config.model_validate_json(order["config"])
    set_up_logging(config.native)
    if not config.regnet.local_service_conf.on_gpu:
        os.nice(NICENESS)
    listener = socket.socket(fileno=order["listener"])
    block = Block(order["block"], writable=True)
    vitals = Vitals(block)
    model = shared_model(order["model"])
    try:
        require_noted(order["files"])
        engines = Engines.open(config, model, instance=order["instance"])
        require_noted(order["files"])
    except StartupError as error:
        control.send({"failed": str(error)})
        sys.exit(1)
    vitals.patience = max(LEAST_PATIENCE_SECONDS, WARM_UPS_OF_PATIENCE * engines.warm_up_seconds)
    vitals.beat()
    control.send({"ready": True})
    linger = max(0, config.regnet.auto_batching_timeout) / 1000
    batch_size = config.regnet.batch_size
    batcher = Batcher(engines, model, RunMeter(block), batch_size=batch_size, linger=linger)
    stuck_after = STUCK_SECONDS + STUCK_SECONDS_PER_IMAGE * batch_size
    try:
        EngineServer(batcher, listener, control, vitals, stuck_after=stuck_after).run()
    except BrokenError as error:
        control.send({"failed": str(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
