"""The command ``regnetx``: which files it finds and what it prints where."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_command import COMMAND, ENVIRONMENT, label, photo_folder, refusing, run
from client_servers import LABELS, Gateway, class_of, gateway

from regnetx_client.cli.files import image_files
from regnetx_client.cli.output import Result, writer
from regnetx_client.predictions import Prediction


@pytest.fixture
def server() -> Iterator[Gateway]:
    with gateway(knows_top_k=True) as running:
        yield running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path)


def test_folders_are_searched_through_and_sorted(photos: Path) -> None:
    found = [os.path.relpath(path, photos) for path in image_files([str(photos)])]
    assert found == ["a.jpg", "b.PNG", "c.webp", "more/e.bmp", "more/deep/d.jpeg"]


def test_globs_are_expanded_and_keep_to_images(photos: Path) -> None:
    assert image_files([f"{photos}/*.jp*"]) == [f"{photos}/a.jpg"]
    assert len(image_files([f"{photos}/**"])) == 5
    assert len(image_files([f"{photos}/*"])) == 5


def test_a_named_file_is_taken_whatever_its_name_and_once(photos: Path) -> None:
    odd = photos / "notes.txt"
    assert image_files([str(odd), str(odd), str(photos / "a.jpg")]) == [str(odd), str(photos / "a.jpg")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a[1].jpg"
    path.write_bytes(b"x")
    assert image_files([str(path)]) == [str(path)]


# --- what is printed -----------------------------------------------------------------------------


def test_piped_output_is_tab_separated_in_the_order_of_the_files(photos: Path, server: Gateway) -> None:
    done = run("predict", "a.jpg", "more", "b.PNG", "--url", server.url, "--top-k", "2", cwd=photos)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [row[0] for row in rows[::2]] == ["a.jpg", "more/e.bmp", "more/deep/d.jpeg", "b.PNG"]
    assert rows[0] == ["a.jpg", "1", str(class_of(b"a.jpg")), label("a.jpg"), "0.5"]
    assert rows[1][1] == "2"


def test_json_is_an_object_a_line(photos: Path, server: Gateway) -> None:
    done = run("predict", ".", "--url", server.url, "--json", "--top-k", "3", cwd=photos)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5
    assert lines[0]["image"] == "./a.jpg"
    best = lines[0]["predictions"]
    assert len(best) == 3
    assert best[0] == {"class_id": class_of(b"a.jpg"), "label": label("a.jpg"), "prob": 0.5}


def test_csv_has_a_heading_and_quotes(photos: Path, server: Gateway) -> None:
    (photos / 'odd, "name".jpg').write_bytes(b"odd")
    done = run("predict", 'odd, "name".jpg', "a.jpg", "--url", server.url, "--csv", cwd=photos)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert rows[0] == {
        "image": 'odd, "name".jpg',
        "rank": "1",
        "class_id": str(class_of(b"odd")),
        "label": label("odd"),
        "prob": "0.5",
    }
    assert rows[1]["image"] == "a.jpg"


def test_a_stock_server_leaves_the_class_number_empty(photos: Path) -> None:
    with gateway() as stock:
        done = run("predict", "a.jpg", "--url", stock.url, "--service", "imagenet", "--top-k", "5", cwd=photos)
    assert done.stdout == f"a.jpg\t1\t\t{label('a.jpg')}\t0.9341402053833008\n"
    assert stock.requests[0][0] == "/imagenet/prediction"


def test_tabs_and_line_ends_in_names_do_not_break_lines() -> None:
    out = io.StringIO()
    writer(None, [], out)(Result("a\tb\n.jpg", (Prediction("c\\d", 0.5),)))
    assert out.getvalue() == "a\\tb\\n.jpg\t1\t\tc\\\\d\t0.5\n"


def test_json_has_no_nan() -> None:
    out = io.StringIO()
    writer("json", [], out)(Result("a.jpg", (Prediction("c", float("nan")),)))
    assert json.loads(out.getvalue())["predictions"][0]["prob"] is None


def test_a_name_that_is_not_utf_8_goes_through(photos: Path, server: Gateway) -> None:
    name = b"caf\xe9.jpg"
    Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(b"x")
    command = [*COMMAND, "predict", os.fsdecode(name), "--url", server.url]
    done = subprocess.run(command, capture_output=True, cwd=photos, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith(name + b"\t1\t")


def on_terminal(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Runs the command on a terminal of its own; returns its status and all that was shown."""
    shown = bytearray()
    parent, child = pty.openpty()
    process = subprocess.Popen([*COMMAND, *arguments], stdout=child, stderr=child, cwd=cwd, env=ENVIRONMENT)
    os.close(child)
    try:
        while data := os.read(parent, 65536):
            shown += data
    except OSError:
        pass  # how a terminal says that its last user has gone
    os.close(parent)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def screen(shown: str) -> list[str]:
    """The lines that stay: what was wiped with the progress bar is gone."""
    return re.sub(r"[^\n]*\r\x1b\[K", "", shown).splitlines()


def test_a_terminal_gets_a_table_and_a_progress_bar(photos: Path, server: Gateway) -> None:
    (photos / "more" / "broken.jpg").write_bytes(b"broken")
    server.refuse = refusing(b"broken")
    status, shown = on_terminal("predict", "a.jpg", "more", "--url", server.url, "--top-k", "2", cwd=photos)
    assert status == 1
    assert "[######..................] 1/4" in shown
    width = len("more/deep/d.jpeg")
    second = LABELS[(class_of(b"a.jpg") + 1) % 10]
    assert screen(shown)[:4] == [
        f"{'IMAGE':{width}}    PROB  LABEL",
        f"{'a.jpg':{width}}  0.5000  {label('a.jpg')}",
        f"{'':{width}}  0.2500  {second}",
        f"{'more/broken.jpg':{width}}          failed: err_no 10000: not an image",
    ]
    assert screen(shown)[-1] == "regnetx: 1 of 4 images failed"


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    out, name = Terminal(), "folder/" * 10 + "雏菊.jpg"
    writer(None, [name], out)(Result(name, (Prediction("a label far too long for this\x1b[2J terminal", 0.5),)))
    row = out.getvalue().splitlines()[1]
    assert row == "...r/folder/雏菊.jpg  0.5000  a label fa"
