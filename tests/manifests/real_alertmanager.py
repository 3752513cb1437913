"""A real Alertmanager on loopback, and whom it notifies."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from real_prometheus import fetched, started
from running import wait_for

Alert = dict[str, Any]  # labels, annotations, status and more, as the webhook of Alertmanager has them
SOON = {"group_wait": "10ms", "group_interval": "500ms", "repeat_interval": "1h"}  # its defaults wait 30 s and 5 min


@dataclass
class Notified:
    """What an Alertmanager has told its receiver, and where it listens."""

    address: str = ""  # host:port of the Alertmanager
    told: list[Alert] = field(default_factory=list)

    def of(self, name: str, status: str = "firing", **labels: str) -> list[Alert]:
        """The alerts of that name that it was told of, with those labels."""
        wanted = {"alertname": name, **labels}.items()
        return [one for one in list(self.told) if one["status"] == status and wanted <= one["labels"].items()]

    def wait(self, name: str, status: str = "firing", *, seconds: float = 60, **labels: str) -> Alert:
        """The first of them, once it has come."""
        wait_for(lambda: self.of(name, status, **labels), seconds)
        return self.of(name, status, **labels)[0]


@contextlib.contextmanager
def alertmanager(folder: Path) -> Iterator[Notified]:
    """One, ready, that notifies at once and keeps everything in ``folder``."""
    program = fetched("alertmanager", "the ways of alerts")
    notified = Notified()
    with _receiver(notified) as hook:
        receiver = {"name": "people", "webhook_configs": [{"url": hook, "send_resolved": True}]}
        route = {"receiver": "people", "group_by": ["alertname"], **SOON}
        (folder / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
        command = [program, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'silences'}",
                   "--cluster.listen-address=", "--log.level=warn"]  # fmt: skip
        with started(command, folder) as url:
            notified.address = url.removeprefix("http://")
            yield notified


@contextlib.contextmanager
def _receiver(notified: Notified) -> Iterator[str]:
    """The URL of a webhook, which remembers the alerts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notified.told.extend(json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
