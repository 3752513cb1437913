"""The admin door as tests ask it: metrics as numbers, probes as a status and a reason."""

from __future__ import annotations

import contextlib
import http.client

from prometheus_client.parser import text_string_to_metric_families

ADMIN = {"enable_prometheus": True, "prometheus_port": 0}


def ask(service, path, verb="GET", **headers):
    """(status, headers, body) of one request to the admin door."""
    connection = http.client.HTTPConnection(service.admin, timeout=30)
    with contextlib.closing(connection):
        connection.request(verb, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def probe(service, path):
    """Status and reason of a probe."""
    status, _, body = ask(service, path)
    return status, body.decode().rstrip("\n")


class Scrape:
    """All samples of one scrape."""

    def __init__(self, service):
        status, _, body = ask(service, "/metrics")
        assert status == 200
        self.families = list(text_string_to_metric_families(body.decode()))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        """The value of one series."""
        return self.samples[name, frozenset(labels.items())]

    def images(self, format_):
        """Images of one format."""
        return self("regnetx_images_total", format=format_)

    def requests(self, door):
        """Outcomes that happened at a door, with their number."""
        return {
            dict(labels)["outcome"]: int(value)
            for (name, labels), value in self.samples.items()
            if name == "regnetx_requests_total" and ("door", door) in labels and value
        }
