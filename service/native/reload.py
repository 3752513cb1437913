"""The model's files as they are now -> another version beside the one that serves, warmed, and then in its place.

Every frontend gets it ready (its own slots, links and decode threads, and one image the whole way) before any uses it.
Until then whatever goes wrong leaves the service as it was; then each frontend changes over between two requests.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from service.config import Config
from service.errors import ModelError, StartupError
from service.native.aside import aside
from service.native.generation import Generation
from service.native.supervised import LOAD_KEY, Child, ChildGoneError
from service.native.versions import FAILED, Versions
from service.ops.content import Stamp, stamp_of
from service.ops.model import CHOICE_FILE, SERVER_FOLDER, Model, load_verified

log = logging.getLogger("regnetx.supervisor")

TRIES = 3  # of a frontend that ends while it prepares
REPLY_SECONDS = 120  # for a frontend to get ready, or to change over, which takes it a turn of its loop
Look = list[tuple[str, Stamp]]


def read_model(config: Config) -> tuple[Config, Model]:
    """The model as its files are now, and the configuration with the folder that a symbolic link names now: a process
    that is started again later must not see the next one. Raises ModelError."""
    config = _with_real_path(config)
    return config, load_verified(Path(config.regnet.local_service_conf.model_config_))


def _with_real_path(config: Config) -> Config:
    op = config.regnet
    local = op.local_service_conf.model_copy(
        update={"model_config_": str(Path(op.local_service_conf.model_config_).resolve())}
    )
    return config.model_copy(
        update={"op": {next(iter(config.op)): op.model_copy(update={"local_service_conf": local})}}
    )


class Reloader:
    """Reloads when ``wanted`` is set, one at a time, for as long as the service lives."""

    def __init__(self, config: Config, versions: Versions, frontends: Sequence[Child], order: "Order") -> None:
        """``config``: as it was started, so that a link is followed anew; ``order``: what a frontend of a generation
        that is started from now on is told and inherits."""
        self._config = config
        self._versions = versions
        self._frontends = frontends
        self._order = order
        self._tried: Look = look(config)
        self.wanted = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._config.native.reload_model_ms:
                group.create_task(self._watch(self._config.native.reload_model_ms / 1000))
            while True:
                await self.wanted.wait()
                self.wanted.clear()
                await self._reload()

    async def _watch(self, seconds: float) -> None:
        """Ask for a reload when the files are others than those of the last one, and have stayed so for one look."""
        before = self._tried
        while True:
            await asyncio.sleep(seconds)
            now = await aside(lambda: look(self._config))
            if now == before != self._tried and now:
                self.wanted.set()
            before = now

    async def _reload(self) -> None:
        current = self._versions.current
        try:
            await self._replace(current)
        except StartupError as error:
            self._refused(current, str(error))
        except Exception:
            log.exception("a reload failed in a way that nobody thought of")
            self._refused(current, "internal error")
        if self._versions.current is not current:
            await self._retire(current)

    def _refused(self, current: Generation, reason: str) -> None:
        self._versions.reloads[FAILED] += 1
        log.error("reload: refused, %s version %s goes on: %s", current.model.name, current.version, reason)

    async def _replace(self, current: Generation) -> None:
        began = time.monotonic()
        new = await self._read_in_time()
        try:
            if new.answers_as(current):
                log.info("reload: the model is still %s version %s; nothing to do", new.model.name, new.version)
                return
            await self._bring_up(new)
            await self._switch(new)
            told = (new.model.name, new.version, current.version, time.monotonic() - began)
            log.info("reload: %s version %s serves in the place of %s, %.1f s after the order", *told)
        finally:
            if new is not self._versions.current:
                for frontend in self._frontends:
                    frontend.say({"discard": new.number})
                await new.stop()
                new.close()

    async def _read_in_time(self) -> Generation:
        """Raises StartupError where the files are not read within what an engine may take to load them."""
        seconds = self._config.native.load_timeout_ms / 1000
        reading = aside(self._read)
        try:
            await asyncio.wait([reading], timeout=seconds or None)
            if not reading.done():
                raise StartupError(f"its files have not been read within the {seconds:g} s of {LOAD_KEY}")
            return reading.result()
        finally:
            if not reading.done():
                reading.add_done_callback(_close_unused)

    def _read(self) -> Generation:
        """In a thread: files may be large, or on a file system that does not answer."""
        self._tried = look(self._config)
        config, model = read_model(self._config)
        current = self._versions.current
        return Generation(current.number + 1, self._with_engine(config, model), model)

    def _with_engine(self, config: Config, model: Model) -> Config:
        """``auto`` stays with the engine that was chosen, where the new version is of the same kind: to measure while
        requests are answered would slow them down, and not tell the truth."""
        current = self._versions.current
        same = all(getattr(model, fact) == getattr(current.model, fact) for fact in ("architecture", "height", "width"))
        engine = current.config.native.engine
        if config.native.engine != "auto" or not same or (model.onnx is None and engine != "paddle"):
            from service.engines.choice import in_force

            return in_force(config, model)
        return config.model_copy(update={"native": config.native.model_copy(update={"engine": engine})})

    async def _bring_up(self, new: Generation) -> None:
        new.start()
        await new.ready()
        await self._each(lambda frontend: self._prepare(frontend, new))

    async def _switch(self, new: Generation) -> None:
        """All frontends at once; one that is started from now on has the new version from its start."""
        for frontend in self._frontends:
            frontend.renew(*self._order(new))
        self._versions.switch(new)
        await self._each(lambda frontend: self._change_over(frontend, new))

    async def _retire(self, old: Generation) -> None:
        """Once each frontend has answered what it had begun with it."""
        await self._each(lambda frontend: self._tell(frontend, {"retire": old.number}))
        await old.stop()
        self._versions.has_gone(old)
        old.close()

    async def _prepare(self, frontend: Child, new: Generation) -> None:
        """Raises StartupError with the frontend's words."""
        for _ in range(TRIES):
            await frontend.ready.wait()
            try:
                reply = await self._reply(frontend, {"prepare": new.order}, new.descriptors)
            except ChildGoneError:
                continue
            if reason := reply.get("refused"):
                raise StartupError(f"{frontend.name}: {reason}")
            return
        raise StartupError(f"{frontend.name} ended {TRIES} times while it prepared")

    async def _change_over(self, frontend: Child, new: Generation) -> None:
        while frontend.generation != new.number:
            await frontend.ready.wait()
            try:
                if (await self._reply(frontend, {"switch": new.number})).get("refused"):
                    await self._prepare(frontend, new)  # it had been started again with the former order
                else:
                    frontend.generation = new.number
            except ChildGoneError:
                continue
            except StartupError as error:
                log.error("reload: %s; it is started again", error)
                frontend.kill()

    async def _reply(self, frontend: Child, message: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Raises StartupError where none comes: the frontend stands still. ChildGoneError as ``ask``."""
        try:
            return await asyncio.wait_for(frontend.ask(message, descriptors), REPLY_SECONDS)
        except TimeoutError:
            raise StartupError(f"{frontend.name} has not replied within {REPLY_SECONDS} s") from None

    async def _tell(self, frontend: Child, message: dict[str, int]) -> None:
        """One that is not there has nothing to let go of."""
        try:
            await frontend.ask(message)
        except ChildGoneError:
            return

    async def _each(self, what: Callable[[Child], Awaitable[None]]) -> None:
        """Raises the error of the first that has one, once all are done."""
        done = await asyncio.gather(*(what(frontend) for frontend in self._frontends), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result


def _close_unused(reading: "asyncio.Future[Generation]") -> None:
    """What was read too late is no version."""
    if reading.exception() is None:
        reading.result().close()


Order = Callable[[Generation], "tuple[dict[str, object], tuple[int, ...]]"]


def look(config: Config) -> Look:
    """The stamps of the files in the model's folder and its ``serving_server``; none while one is being replaced."""
    folder = Path(config.regnet.local_service_conf.model_config_).resolve()
    folders = (folder, folder / SERVER_FOLDER, folder.parent if folder.name == SERVER_FOLDER else folder)
    try:
        files = sorted({file for one in folders if one.is_dir() for file in one.iterdir() if file.is_file()})
        return [(str(file), stamp_of(file)) for file in files if file.name != CHOICE_FILE]
    except (OSError, ModelError):
        return []
