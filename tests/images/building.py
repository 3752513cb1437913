"""docker/Dockerfile -> images, with the real base images or with stand-ins."""

from __future__ import annotations

from containers import LABEL, ROOT
from engine import Engine
from stand_in import base_image

BUILD_SECONDS = 1800
VERSION, REVISION = "9.8.7", "0123456789abcdef"


class Images(dict[str, str]):
    """The name of the image of each target, built when it is first asked for.

    Asking raises LookupError where there is no base image and none can be made, CommandError where the build
    fails, with its output.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._bases: dict[str, str] = {}
        self._failed: dict[str, Exception] = {}

    def __missing__(self, target: str) -> str:
        if target in self._failed:  # once is enough
            raise self._failed[target]
        try:
            self[target] = self.build(target)
        except Exception as error:
            self._failed[target] = error
            raise
        return self[target]

    def build(self, target: str, *options: str, context: str = str(ROOT)) -> str:
        """Build one target, tag it and return the tag."""
        tag = f"regnetx-verify/{target}"
        arguments = {**self.base_arguments(stock=target == "paddle-serving"), "VERSION": VERSION, "REVISION": REVISION}
        given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        self._engine.docker(
            "build", "--file", f"{context}/docker/Dockerfile", "--target", target, "--tag", tag, *given, *options, context,
            seconds=BUILD_SECONDS,
        )  # fmt: skip
        return tag

    def base_arguments(self, *, stock: bool = False) -> dict[str, str]:
        """The build arguments that name the base images."""
        arguments = {"PYTHON_IMAGE": self._base("3.11")}
        return {**arguments, "STOCK_PYTHON_IMAGE": self._base("3.9")} if stock else arguments

    def remove(self) -> None:
        """From an engine that is not ours; the build cache stays with it."""
        if not self._engine.is_ours:
            for image in (*self.values(), *(name for name in self._bases.values() if name.startswith(LABEL))):
                self._engine.answers("image", "rm", image, seconds=120)

    def _base(self, version: str) -> str:
        if version not in self._bases:
            self._bases[version] = base_image(self._engine, version)
        return self._bases[version]
