"""A real Docker engine (Debian's dockerd) in a folder of its own, and none of it left at the end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from command import CommandError, attempt, run

BRIDGE = "regnetx0"
SUBNETS = "10.213.0.0/16"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
START_SECONDS = 60
STOP_SECONDS = 60
CHAINS = (("nat", "DOCKER"), ("filter", "DOCKER"), ("filter", "DOCKER-USER"), ("filter", "DOCKER-INGRESS"),
          ("filter", "DOCKER-ISOLATION-STAGE-1"), ("filter", "DOCKER-ISOLATION-STAGE-2"))  # fmt: skip


class EngineError(Exception):
    """dockerd does not start on this machine, and what it said."""


def install(*packages: str) -> None:
    """Debian packages, where they are not there yet."""
    if attempt("dpkg-query", "--show", *packages).returncode:
        run("apt-get", "update", "-qq", seconds=300)
        run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages, seconds=600)


@contextlib.contextmanager
def own_engine(folder: Path) -> Iterator[Path]:
    """The socket of an engine whose files are all in ``folder``. Raises EngineError."""
    forwarding = FORWARDING.read_text()
    policy = _prepare()
    try:
        with _dockerd(folder) as socket:
            yield socket
    finally:
        _clean_network()
        run("iptables", "-P", "FORWARD", policy)
        FORWARDING.write_text(forwarding)


def _prepare() -> str:
    """Install what is needed and make the bridge; the firewall's policy for forwarding, which Docker changes."""
    try:
        with _no_services():  # its package would start an engine for the whole machine
            install("docker.io", "iptables", "iproute2")
        attempt("ip", "link", "delete", BRIDGE)  # of a run that was killed
        policy = _forward_policy()
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", "10.213.255.1/24", "dev", BRIDGE)
    except (CommandError, OSError) as error:
        raise EngineError(f"no Docker engine can be installed or started on this machine: {error}") from None
    return policy


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Debian's own switch for "install, but start nothing"."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


@contextlib.contextmanager
def _dockerd(folder: Path) -> Iterator[Path]:
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    command = [
        # The kernel ends it when we are killed. (containerd ends with dockerd.)
        "setpriv", "--pdeathsig", "TERM", "/usr/sbin/dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec",
        "--pidfile", folder / "dockerd.pid", "--host", f"unix://{socket}", "--bridge", BRIDGE, "--oom-score-adjust", "0",
        "--default-address-pool", f"base={SUBNETS},size=24",
    ]  # fmt: skip
    with log.open("w") as said:
        # A session of its own: Ctrl-C in the terminal is ours to handle.
        process = subprocess.Popen(
            [str(part) for part in command], stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _wait_until_it_answers(process, socket, log)
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _unmount(folder)


def _wait_until_it_answers(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while attempt("/usr/bin/docker", "--host", f"unix://{socket}", "info").returncode:
        if process.poll() is not None or time.monotonic() > give_up:
            lines = [line for line in log.read_text().splitlines() if "level=info" not in line] or ["nothing"]
            raise EngineError(f"dockerd does not start on this machine; it said: {lines[-1]}")
        time.sleep(0.1)


def _unmount(folder: Path) -> None:
    """What a daemon that had to be killed leaves mounted."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        attempt("umount", "--lazy", mount)


def _forward_policy() -> str:
    """ACCEPT or DROP; Docker makes it DROP."""
    return next(line.split()[2] for line in run("iptables", "-S", "FORWARD").splitlines() if line.startswith("-P"))


def _clean_network() -> None:
    """Docker leaves its links and firewall rules behind. None was here before us: no other dockerd was running."""
    links = [BRIDGE, *(line.split()[0] for line in run("ip", "-brief", "-4", "address").splitlines()
                       if "10.213." in line and line.startswith("br-"))]  # fmt: skip
    for table in ("nat", "filter"):
        for rule in run("iptables", "-t", table, "-S").splitlines():
            if rule.startswith("-A") and any(word in rule for word in ("DOCKER", "10.213.", *links)):
                attempt("iptables", "-t", table, "-D", *rule.split()[1:])
    for table, chain in CHAINS:
        attempt("iptables", "-t", table, "-F", chain)
        attempt("iptables", "-t", table, "-X", chain)
    for link in links:
        attempt("ip", "link", "delete", link)
