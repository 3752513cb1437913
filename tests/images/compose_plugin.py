"""Docker Compose: the one that is here, or Debian's, which is a plugin in a package of the suite after this one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from command import run
from engine import Engine

CACHE = Path(sys.prefix) / "images"
SUITE, PACKAGE = "trixie", "docker-compose"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def compose_of(engine: Engine) -> tuple[str, ...]:
    """The command that is ``docker compose``. Raises CommandError where there is none and it cannot be had."""
    if engine.answers("compose", "version"):
        return (engine.client, "compose")
    plugin = CACHE / "docker-compose"
    if not plugin.exists():
        CACHE.mkdir(exist_ok=True)
        _fetch(plugin)
    # It is a program of its own, too: so no settings of Docker's have to name it.
    return (str(plugin),)


def _fetch(plugin: Path) -> None:
    mirror = next(
        line
        for line in run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)").splitlines()
        if "bookworm" in line
    ).split()[0]
    with tempfile.TemporaryDirectory(prefix="regnetx-compose-", dir="/var/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)  # apt downloads as a user of its own
        (root / "lists/partial").mkdir(parents=True)
        (root / "source.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
        options = (
            "-o", f"Dir::Etc::SourceList={root}/source.list", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={root}/lists", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
        )  # fmt: skip
        run("apt-get", *options, "update", "-qq", seconds=300)
        run("apt-get", *options, "download", "-qq", f"{PACKAGE}/{SUITE}", seconds=300, cwd=root)
        [package] = root.glob("*.deb")
        run("dpkg", "--extract", package, root / "unpacked")
        unfinished = plugin.with_suffix(".unfinished")
        shutil.copy2(root / "unpacked" / PLUGIN, unfinished)
        unfinished.rename(plugin)
