"""One pipeline request -> one pipeline response, the same for both doors."""

import asyncio
import logging

from service.contract.answers import PipelineResponse, in_band, respond
from service.contract.request import AnyRequest, Upload
from service.contract.unpack import unpack
from service.errors import EngineError, ServiceError
from service.native.classify import Classifier
from service.native.request_meter import Exchange

# One beyond that can be built to take long, and is read in a thread: the loop has others to hear meanwhile.
LARGE_REQUEST_BYTES = 1 << 20

log = logging.getLogger("regnetx.inference")


class Inference:
    """Unpack, classify, respond. What is answered in band never leaves here as an exception."""

    def __init__(self, classifier: Classifier, *, service: str, op: str, classes: int, version: str = "") -> None:
        """``service``: the name that requests must use; ``op``: the name that error messages use; others: ``use``."""
        self._service = service
        self._op = op
        self.use(classifier, classes=classes, version=version)

    def use(self, classifier: Classifier, *, classes: int, version: str) -> None:
        """From now on with this one, of a ``version`` of the model; requests that have begun end with theirs."""
        self._classifier = classifier
        self.classes = classes
        self.version = version

    def check_room(self, timeout: float | None = None) -> None:
        """Raises OverloadedError or UnavailableError where no request would be taken now: why read it then.

        ``timeout``: the caller's, in seconds from now.
        """
        self._classifier.check_room(timeout)

    async def answer(
        self,
        request: AnyRequest | Upload,
        exchange: Exchange,
        *,
        top_k: int | None,
        deadline: float | None,
        large: bool = False,
    ) -> PipelineResponse:
        """The response to one request. ``deadline``: the caller's, in seconds of the monotonic clock.

        ``large``: it came in more than LARGE_REQUEST_BYTES. ``exchange`` is told of failures that are answered in band.

        Raises the ServiceErrors that are told at the door: overload, the caller's deadline, no engine.
        """
        try:
            name = self._service
            images = await asyncio.to_thread(unpack, request, name) if large else unpack(request, name)
            exchange.images = len(images)
            exchange.model_version = self.version
            top_k = top_k and min(top_k, self.classes)  # checked against the classes of a version ago, perhaps
            predictions = await self._classifier.classify(
                images, top_k=top_k or 1, deadline=deadline, times=exchange.times
            )
            return respond(predictions, top_k)
        except ServiceError as error:
            if error.err_no is None:
                raise
            exchange.failed(error)
            return in_band(error, request.logid, self._op)
        except Exception as error:
            log.exception("a request failed in a way that nobody thought of")
            exchange.failed(error)
            return in_band(EngineError("internal error"), request.logid, self._op)

    def refusal(self, error: ServiceError) -> PipelineResponse:
        """The response, in band, to a request that was not even read."""
        return in_band(error, 0, self._op)
