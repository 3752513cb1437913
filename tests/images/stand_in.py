"""python:3.x-slim-bookworm from its registry, or else a stand-in made of Debian's packages and this machine's CPython.

A stand-in has a name of its own: it never takes the place of the real image in anybody's engine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from command import attempt, run
from engine import Engine
from own_engine import install

CACHE = Path(sys.prefix) / "images"  # goes with the environment: make clean
# What CPython's standard library is linked with, as in the real image.
PACKAGES = ("ca-certificates", "netbase", "tzdata", "libbz2-1.0", "libdb5.3", "libexpat1", "libffi8", "liblzma5",
            "libncursesw6", "libreadline8", "libsqlite3-0", "libssl3", "libuuid1", "zlib1g")  # fmt: skip
# How this machine reaches its registries: whatever of it there is.
SETTINGS = ("etc/pip.conf", "etc/xdg/pip", "etc/ssl/certs", "etc/apt/sources.list", "etc/apt/sources.list.d",
            "etc/apt/keyrings", "etc/apt/auth.conf.d", "usr/local/share/ca-certificates")  # fmt: skip
DEBIAN_VERSION = "3.11"
SKIPPED = ("site-packages", "test", "tests", "idlelib", "__pycache__")


def base_image(engine: Engine, version: str) -> str:
    """The name of a base image for CPython ``version``.

    Raises LookupError where it cannot be pulled and there is no such CPython here to make a stand-in of.
    """
    real = f"python:{version}-slim-bookworm"
    if engine.answers("image", "inspect", real) or engine.answers("pull", "--quiet", real, seconds=300):
        return real
    name = f"regnetx-verify/python:{version}-stand-in"
    if not engine.answers("image", "inspect", name):
        _make(engine, name, version, _prefix(version))
    return name


def _prefix(version: str) -> Path:
    """Where a CPython of this machine is installed; /usr means Debian's own, which need not be here."""
    if version == DEBIAN_VERSION:
        ours = sys.version_info[:2] == tuple(map(int, version.split(".")))
        return Path(sys.base_prefix) if ours else Path("/usr")
    found = attempt("sh", Path(__file__).parents[2] / "requirements/python39.sh")
    if found.returncode:
        raise LookupError(
            f"python:{version}-slim-bookworm cannot be pulled here, and no CPython {version} is installed"
        )
    return Path(run(found.stdout.strip(), "-c", "import sys; print(sys.base_prefix)").strip())


def _make(engine: Engine, name: str, version: str, prefix: Path) -> None:
    # Debian's own Python is spread over /usr: there the packages are taken, not the files.
    packaged = prefix == Path("/usr")
    extra = [f"python{version}", f"python{version}-venv"] if packaged else []
    with tempfile.TemporaryDirectory(prefix="regnetx-base-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        run("tar", "-C", root, "-xf", _debian([*PACKAGES, *extra]), "--exclude=./dev/*", seconds=120)
        for setting in SETTINGS:
            _copy(Path("/") / setting, root / setting)
        if packaged:
            for link in ("python", "python3", f"python{version}"):
                (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/python{version}")
        else:
            _copy_python(prefix, root / "usr/local", version)
        run("chroot", root, "ldconfig")
        tar = Path(folder) / "base.tar"
        run("tar", "-C", root, "-cf", tar, ".", seconds=120)
        engine.docker("import", "--change", 'CMD ["python3"]', tar, name, seconds=120)


def _debian(packages: list[str]) -> Path:
    """A minimal Debian 12 with those packages, as a tar; made once."""
    CACHE.mkdir(exist_ok=True)
    tar = CACHE / f"bookworm-{'python' if any(name.startswith('python') for name in packages) else 'plain'}.tar"
    if not tar.exists():
        install("mmdebstrap")
        unfinished = tar.with_suffix(".unfinished.tar")
        include = f"--include={','.join(packages)}"
        run("mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", unfinished, seconds=900)
        unfinished.rename(tar)
    return tar


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _copy_python(prefix: Path, target: Path, version: str) -> None:
    """An interpreter and its standard library, without what was installed beside it, and with the pip of its own."""
    library = f"lib/python{version}"
    (target / "bin").mkdir(exist_ok=True)
    shutil.copy2((prefix / f"bin/python{version}").resolve(), target / f"bin/python{version}")
    for link in ("python", "python3"):
        (target / "bin" / link).symlink_to(f"python{version}")
    shutil.copytree(prefix / library, target / library, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, target / "lib", follow_symlinks=False)
    (target / library / "site-packages").mkdir()
    attempt("chroot", target.parents[1], f"/usr/local/bin/python{version}", "-m", "ensurepip")
