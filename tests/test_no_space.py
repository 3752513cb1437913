"""A disk that is full, memory and descriptors that are not to be had: one clear line, and nothing half-written stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import yaml
from calling import answers, free_port, infer
from conftest import DIGITS
from running import ROOT, Service, configuration, wait_for

from service.errors import StartupError
from service.native import classify

# A file system of its own in the process's own namespace: gone with the process, unseen by others.
MOUNTED = """
mount -t tmpfs -o "$1" tmpfs "$2" || exit 99
shift 2
exec "$@"
"""


def on_a_small_disk(folder: Path, options: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds a file system with those mount options at ``folder``, and nothing else is changed."""
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("unshare of util-linux is not installed here")
    done = subprocess.run(
        [*namespace, "sh", "-c", MOUNTED, "sh", options, str(folder), *command],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")
    return done


def program(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


# --- disks --------------------------------------------------------------------------------------

FILLS_UP = """
import subprocess, sys, time
from pathlib import Path
models = Path(sys.argv[1])
export = subprocess.Popen([sys.executable, "-m", "serving_models", "export", *sys.argv[2:]])
while export.poll() is None and not list(models.glob(".export.*/*")):
    time.sleep(0.001)
try:
    with (models / "filler").open("wb", buffering=0) as filler:  # somebody else's
        while export.poll() is None:
            filler.write(bytes(4096))
except OSError as error:
    print(error.strerror)
code = export.wait()
print(code, sorted(path.name for path in models.iterdir()))
"""


def test_a_disk_that_fills_up_during_an_export_is_one_line_and_nothing_of_it_stays(tmp_path):
    weights = str(DIGITS / "RegNetX_200MF_digits.pdparams")
    command = [*program(FILLS_UP), str(tmp_path), weights, "--name", "digits", "--to", str(tmp_path)]
    done = on_a_small_disk(tmp_path, "size=24m", *command)
    full, left = done.stdout.splitlines()
    assert (full, left) == ("No space left on device", "1 ['filler']")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and ("disk full" in line or "No space left on device" in line), line


def test_a_choice_that_cannot_be_kept_leaves_nothing(tmp_path):
    text = """
        import os, sys
        from pathlib import Path
        from types import SimpleNamespace
        from service.engines.kept_choice import Choice, keep
        place = Path(sys.argv[1])
        (place / "serving_server").mkdir()
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        try:
            (place / "filler").write_bytes(bytes(1 << 20))
        except OSError as error:
            print(error.strerror)
        model = SimpleNamespace(program=place / "serving_server/inference.pdmodel")
        print(keep(model, {"cpu": "x" * 100_000}, Choice("paddle", 8, {"paddle": 1.0}, {"paddle": 0.0})))
        print(sorted(path.name for path in place.rglob("*") if path.is_file()))
    """
    done = on_a_small_disk(tmp_path, "size=64k", *program(text), str(tmp_path))
    assert done.stdout.splitlines() == ["No space left on device", "None", "['filler']"], done.stderr


BUILDS = """
    import logging, sys
    from pathlib import Path
    from service.engines.engine_cache import cached
    logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stdout)
    place = Path(sys.argv[1]) / "kept"
    place.mkdir()

    def open_with(folder):
        if folder is not None:
            (folder / "the.engine").write_bytes(bytes(1 << 20))
        return f"built into {folder}"

    made_for = {"machine": {}, "asked": {}, "files": {}}
    print(cached([place], made_for, open_with))
    print(sorted(path.name for path in place.rglob("*") if not path.name.endswith(".lock")))
"""


@pytest.mark.parametrize("options", ["size=64k", "nr_inodes=3"], ids=["no block is left", "no file can be made"])
def test_an_engine_that_cannot_be_kept_is_built_all_the_same(tmp_path, options):
    done = on_a_small_disk(tmp_path, options, *program(BUILDS), str(tmp_path))
    told, built, left = done.stdout.splitlines()
    assert told.startswith(f"the engine is built without {tmp_path}/kept/") and "No space left on device" in told
    assert (built, left) == ("built into None", "[]"), done.stderr


def test_a_service_whose_output_goes_to_a_full_disk_serves(tmp_path, digits_model):
    port = free_port()
    config = configuration(digits_model, http_port=port, native={"engine": "onnxruntime", "access_log": True})
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(tmp_path / "config.yml")],
            cwd=ROOT, stdout=full, stderr=full,
        )  # fmt: skip
    try:
        wait_for(lambda: answers(port, "/readyz") == 200, 60)
        infer(Service(process, f"127.0.0.1:{port}", "", "regnet"))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_an_answer_on_a_full_disk_is_an_error(digits_model):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "service", "predict", str(DIGITS / "samples/seven.png")]
        done = subprocess.run(
            [*command, "--model", str(digits_model)], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"REGNETX__NATIVE__ENGINE": "onnxruntime"}, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "regnetx: what was asked for cannot be written: No space left on device\n"


# --- memory and descriptors ---------------------------------------------------------------------


def refused(tmp_path: Path, model: Path, limits: str) -> str:
    """What a service says that starts under limits of resource(3) and cannot."""
    (tmp_path / "config.yml").write_text(yaml.safe_dump(configuration(model, native={"engine": "onnxruntime"})))
    text = f"import resource, sys; {limits}; from service.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", text, "serve", "--config", str(tmp_path / "config.yml")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_start_without_shared_memory_says_for_what_and_how_much(tmp_path, digits_model):
    line = refused(tmp_path, digits_model, "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))")
    assert re.fullmatch(r"regnetx: no shared memory for 128 slots, native\.slots \(\d{7} bytes\): File too large", line)


def test_a_start_without_descriptors_says_so(tmp_path, digits_model):
    line = refused(tmp_path, digits_model, "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))")
    assert line.startswith("regnetx: ") and "Too many open files" in line


def test_openvino_without_memory_for_a_run_does_not_repeat_the_scores_of_another(digits_model):
    """Its own answer is silence, with the scores of the last run that it had memory for."""
    text = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from service.config import Config
        from service.engines import open_engine
        from service.ops.model import load_model
        model = load_model(Path(sys.argv[1]))
        local = {"model_config": sys.argv[1], "thread_num": 1}
        config = {"http_port": 0, "op": {"regnet": {"local_service_conf": local}}, "native": {"engine": "openvino"}}
        engine = open_engine(Config.model_validate(config), model)
        batch = np.zeros((2, 3, model.height, model.width), np.float32)
        resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
        for _ in range(2):
            try:
                print(engine.run(batch).shape)
            except RuntimeError as error:
                print(error)
    """
    done = subprocess.run([*program(text), str(digits_model)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["OpenVINO has not run the batch; out of memory?"] * 2, done.stderr


def test_decode_threads_are_all_there_from_the_start_or_the_reason_is_told(monkeypatch):
    """A pool that cannot start a thread later has queued the image all the same: its slot would be another's by then."""
    pool = classify._started(3)
    try:
        assert len([one for one in threading.enumerate() if one.name.startswith("decode")]) == 3
    finally:
        pool.shutdown()
    start, started = threading.Thread.start, []

    def start_one(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(StartupError, match="no 3 threads to decode images: can't start new thread"):
        classify._started(3)
