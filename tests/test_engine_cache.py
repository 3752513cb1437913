"""What TensorRT builds is built once, by one process, and used again only whole and only where it belongs.

Here "building" is writing a file, and "opening" is reading it: which file is whose is the cache's whole business.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rights import without_rights
from running import ROOT, configuration, is_alive, wait_for

from service.config import Config
from service.engines import engine_cache
from service.engines.engine_cache import cached, made_for, places
from service.engines.gpu import Gpu
from service.errors import ModelError
from service.ops.model import load_model

MADE_FOR = {"machine": {"gpu": "A100", "driver": "550"}, "asked": {"precision": "fp16"}, "files": {"a": "0"}}


class Library:
    """Builds where it finds nothing; notes what it did and which folder it was given."""

    def __init__(self, content="engine"):
        self.did, self.folders, self.content = [], [], content

    def open_with(self, folder):
        self.folders.append(folder)
        file = folder / "the.engine" if folder else None
        if file and file.exists():
            self.did.append("loads")
            if file.read_text() != self.content:
                raise ModelError("this is no engine")
        else:
            self.did.append("builds")
            if file:
                file.write_text(self.content)
        return self.did[-1]


@pytest.fixture
def library():
    return Library()


def entries(place):
    return sorted(path.parent for path in place.glob("*/manifest.json"))


def left_over(place):
    return sorted(path.name for path in place.iterdir() if path.name.startswith(engine_cache.UNFINISHED))


def test_an_engine_is_built_once_and_loaded_from_then_on(library, tmp_path):
    assert [cached([tmp_path], MADE_FOR, library.open_with) for _ in range(3)] == ["builds", "loads", "loads"]
    [entry] = entries(tmp_path)
    assert json.loads((entry / "manifest.json").read_text())["made_for"] == MADE_FOR
    assert (entry / "the.engine").read_text() == "engine"
    assert oct(entry.stat().st_mode & 0o777) == "0o755"
    assert not left_over(tmp_path)


def test_no_process_is_given_the_folder_of_another(library, tmp_path):
    for _ in range(3):
        cached([tmp_path], MADE_FOR, library.open_with)
    assert len(set(library.folders)) == 3
    assert entries(tmp_path)[0] not in library.folders


@pytest.mark.parametrize(
    "change", [{"machine": {"gpu": "T4", "driver": "550"}}, {"asked": {"precision": "fp32"}}, {"files": {"a": "1"}}]
)
def test_another_gpu_setting_or_model_has_an_engine_of_its_own(change, library, tmp_path):
    for circumstances in (MADE_FOR, MADE_FOR | change, MADE_FOR):
        cached([tmp_path], circumstances, library.open_with)
    assert library.did == ["builds", "builds", "loads"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "the.engine").write_text("engin"),
        lambda entry: (entry / "the.engine").unlink(),
        lambda entry: (entry / "manifest.json").write_text(""),
        lambda entry: (entry / "manifest.json").write_text("[]"),
        lambda entry: (entry / "manifest.json").write_text("[" * 100_000),
        lambda entry: (entry / "manifest.json").write_text('{"made_for": {}, "sha256": {}}'),
        lambda entry: (entry / "manifest.json").write_text(json.dumps({"made_for": MADE_FOR, "sha256": {}})),
        lambda entry: (entry / "manifest.json").write_text(json.dumps({"made_for": MADE_FOR, "sha256": {"../x": "0"}})),
        lambda entry: (entry / "manifest.json").write_text(json.dumps({"made_for": MADE_FOR, "sha256": ["a"]})),
        lambda entry: (entry / "manifest.json").unlink(),
    ],
)
def test_what_is_damaged_or_of_another_is_ignored_with_one_line_and_replaced(damage, library, tmp_path, caplog):
    cached([tmp_path], MADE_FOR, library.open_with)
    [entry] = entries(tmp_path)
    damage(entry)
    caplog.clear()
    assert cached([tmp_path], MADE_FOR, library.open_with) == "builds"
    assert cached([tmp_path], MADE_FOR, library.open_with) == "loads"
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage().startswith(f"{entry} is ignored and will be built again: ") for record in said] == [
        True
    ]
    assert not left_over(tmp_path)


def test_what_the_library_refuses_is_built_again(library, tmp_path, caplog):
    """Its own check, of a version that nobody told the cache."""
    cached([tmp_path], MADE_FOR, library.open_with)
    library.content = "engine of the next version"
    assert cached([tmp_path], MADE_FOR, library.open_with) == "builds"
    assert "is ignored and will be built again: this is no engine" in caplog.text
    assert cached([tmp_path], MADE_FOR, library.open_with) == "loads"


def test_what_the_library_silently_builds_anew_is_kept(tmp_path, caplog):
    """As Paddle does with an engine that it cannot read."""
    cached([tmp_path], MADE_FOR, Library("old").open_with)

    def open_with(folder):
        (folder / "the.engine").write_text("new")
        return "opened"

    assert cached([tmp_path], MADE_FOR, open_with) == "opened"
    assert "was not accepted and has been built again" in caplog.text
    assert cached([tmp_path], MADE_FOR, Library("new").open_with) == "loads"


def test_a_build_that_fails_leaves_nothing_and_says_why(tmp_path):
    def fails(folder):
        (folder / "half").write_text("half an engine")
        raise ModelError("out of memory")

    with pytest.raises(ModelError, match="out of memory"):
        cached([tmp_path], MADE_FOR, fails)
    assert not entries(tmp_path) and not left_over(tmp_path)


def test_a_model_of_which_nothing_goes_to_tensorrt_keeps_nothing_and_says_so(tmp_path, caplog):
    assert cached([tmp_path], MADE_FOR, lambda folder: "opened") == "opened"
    assert "TensorRT has built nothing for this model" in caplog.text
    assert not entries(tmp_path)


def test_only_the_last_engines_are_kept_and_nothing_of_others_is_touched(library, tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/manifest.json").write_text("{}")
    old, new = tmp_path / f"{engine_cache.UNFINISHED}old", tmp_path / f"{engine_cache.UNFINISHED}new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    failed, foreign = tmp_path / f"{'0' * 16}.lock", tmp_path / "apt.lock"
    for file in (failed, foreign):
        file.touch()
        os.utime(file, (0, 0))
    for number in range(engine_cache.KEPT + 3):
        cached([tmp_path], MADE_FOR | {"files": {"a": str(number)}}, library.open_with)
        for later, entry in enumerate(
            sorted(entries(tmp_path), key=lambda one: (one / "manifest.json").stat().st_mtime)
        ):
            if entry.name != "photographs":
                os.utime(entry / "manifest.json", (later, later))
        cached([tmp_path], MADE_FOR | {"files": {"a": "0"}}, library.open_with)  # in use: not the one to go
    kept = [entry for entry in entries(tmp_path) if entry.name != "photographs"]
    assert len(kept) == engine_cache.KEPT
    assert {lock.stem for lock in tmp_path.glob("*.lock")} == {entry.name for entry in kept} | {"apt"}
    assert "0" in [json.loads((entry / "manifest.json").read_text())["made_for"]["files"]["a"] for entry in kept]
    assert (tmp_path / "photographs/manifest.json").exists()
    assert (old.exists(), new.exists()) == (False, True)


def test_timings_of_the_same_machine_are_not_measured_again(tmp_path):
    found = []

    def open_with(folder):
        found.append((folder / "sm80.timing").exists())
        (folder / "sm80.timing").write_text("fast")
        (folder / "the.engine").write_text("engine")
        return True

    for circumstances in (MADE_FOR, MADE_FOR | {"asked": {}}, MADE_FOR | {"machine": {}}):
        cached([tmp_path], circumstances, open_with)
    assert found == [False, True, False]


# --- where ---------------------------------------------------------------------------------------


def test_the_place_is_the_configured_one_or_beside_the_model_and_then_the_users_cache(
    digits_model, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load_model(digits_model)

    def places_of(**native):
        return places(Config.model_validate(configuration(digits_model, native=native)), model)

    assert places_of() == [digits_model.parent / "engine_cache", tmp_path / "regnetx-serving/engine_cache"]
    assert places_of(engine_cache="/somewhere") == [Path("/somewhere")]


@pytest.fixture
def read_only():
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        yield Path(root)


def test_what_is_kept_in_a_place_that_cannot_be_written_is_used_there(library, read_only):
    place = read_only / "kept"
    cached([place], MADE_FOR, library.open_with)
    before = sorted(place.rglob("*"))
    with without_rights(place):
        assert cached([place], MADE_FOR, library.open_with) == "loads"
    assert sorted(place.rglob("*")) == before


def test_where_the_first_place_cannot_be_written_the_next_is_taken_or_none(library, read_only, caplog):
    caplog.set_level("INFO")
    first, second = read_only / "model", read_only / "users"
    for folder in (first, second):
        folder.mkdir(mode=0o755)
    second.chmod(0o555)
    with without_rights(first):
        assert [cached([first, second], MADE_FOR, library.open_with) for _ in range(2)] == ["builds", "builds"]
    assert library.folders == [None, None]
    assert f"kept nowhere: {first} and {second} cannot be written" in caplog.text
    second.chmod(0o777)
    with without_rights(first):
        assert [cached([first, second], MADE_FOR, library.open_with) for _ in range(2)] == ["builds", "loads"]
    assert len(entries(second)) == 1 and not entries(first)


# --- several processes ---------------------------------------------------------------------------

BUILDER = f"""
import logging, os, sys, time
from pathlib import Path
from service.engines import engine_cache
logging.basicConfig(level="INFO")
place, report, goes_on = map(Path, sys.argv[1:4])

def open_with(folder):
    if (folder / "the.engine").exists():
        return "loads"
    (folder / "the.engine").write_text("half")
    report.touch()
    while not goes_on.exists():
        time.sleep(0.01)
    (folder / "the.engine").write_text("whole")
    return "builds"

engine_cache.LOCK_SECONDS = float(sys.argv[4])
print(engine_cache.cached([place], {MADE_FOR!r}, open_with), flush=True)
"""


@contextlib.contextmanager
def builders(tmp_path, count, *, lock_seconds=60.0):
    """Processes that build into the same place until they are let go on; (process, its sign that it builds)."""
    started = []
    try:
        for number in range(count):
            sign = tmp_path / f"builds-{number}"
            arguments = [str(tmp_path / "kept"), str(sign), str(tmp_path / "goes-on"), str(lock_seconds)]
            with (tmp_path / f"said-{number}").open("w") as said:
                process = subprocess.Popen(
                    [sys.executable, "-c", BUILDER, *arguments],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                )
            started.append((process, sign))
        yield started
    finally:
        for process, _ in started:
            process.kill()
            process.wait()
            process.stdout.close()


def waits(tmp_path, number):
    return "waiting for another process" in (tmp_path / f"said-{number}").read_text()


def test_processes_that_start_together_build_once(tmp_path):
    with builders(tmp_path, 3) as started:
        wait_for(lambda: any(sign.exists() for _, sign in started))
        wait_for(lambda: sum(waits(tmp_path, number) for number in range(3)) == 2)
        assert sum(sign.exists() for _, sign in started) == 1
        (tmp_path / "goes-on").touch()
        assert sorted(process.communicate(timeout=60)[0] for process, _ in started) == [
            "builds\n",
            "loads\n",
            "loads\n",
        ]
    [entry] = entries(tmp_path / "kept")
    assert (entry / "the.engine").read_text() == "whole"


def test_a_builder_that_is_killed_leaves_the_build_to_the_next(tmp_path):
    with builders(tmp_path, 2) as started:
        wait_for(lambda: any(sign.exists() for _, sign in started))
        [(first, _)] = [one for one in started if one[1].exists()]
        [(second, sign)] = [one for one in started if one[0] is not first]
        wait_for(lambda: any(waits(tmp_path, number) for number in range(2)))
        first.send_signal(signal.SIGKILL)
        wait_for(lambda: not is_alive(first.pid))
        wait_for(sign.exists)
        (tmp_path / "goes-on").touch()
        assert second.communicate(timeout=60)[0] == "builds\n"
    [entry] = entries(tmp_path / "kept")
    assert (entry / "the.engine").read_text() == "whole"


def test_nobody_waits_for_a_builder_for_ever(tmp_path):
    with builders(tmp_path, 2, lock_seconds=0.3) as started:
        wait_for(lambda: all(sign.exists() for _, sign in started))
        (tmp_path / "goes-on").touch()
        assert [process.communicate(timeout=60)[0] for process, _ in started] == ["builds\n"] * 2
    assert any("this one builds too" in (tmp_path / f"said-{number}").read_text() for number in range(2))
    assert len(entries(tmp_path / "kept")) == 1


# --- the key -------------------------------------------------------------------------------------


def test_the_key_has_the_card_the_versions_and_the_content_of_the_model(tmp_path):
    (tmp_path / "inference.onnx").write_bytes(b"weights")
    card = Gpu("NVIDIA A100-SXM4-80GB", "8.0", 81920)
    key = made_for("onnxruntime", card, [tmp_path / "inference.onnx"], {"precision": "fp16"}, tensorrt="100900")
    machine = key["machine"]
    assert machine["gpu"] == {"name": "NVIDIA A100-SXM4-80GB", "capability": "8.0", "memory_mb": 81920}
    assert (machine["engine"], machine["tensorrt"]) == ("onnxruntime", "100900")
    assert "driver" in machine
    assert set(machine["versions"]) == {"onnxruntime"}
    (tmp_path / "inference.onnx").write_bytes(b"other weights")
    other = made_for("onnxruntime", card, [tmp_path / "inference.onnx"], {"precision": "fp16"}, tensorrt="100900")
    assert other["files"] != key["files"]
    assert other["machine"] == machine
