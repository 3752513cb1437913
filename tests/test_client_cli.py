"""The command ``regnetx``: how it ends, and over gRPC."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_command import COMMAND, ENVIRONMENT, label, photo_folder, refusing, run
from client_pipeline import pipeline
from client_servers import LABELS, Gateway, class_of, free_port, gateway

import regnetx_client
from regnetx_client.cli import main


@pytest.fixture
def server() -> Iterator[Gateway]:
    with gateway(knows_top_k=True) as running:
        yield running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path)


def test_images_that_fail_are_listed_and_the_others_answered(photos: Path, server: Gateway) -> None:
    server.refuse = refusing(b"c.webp")
    (photos / "empty.jpg").write_bytes(b"")
    done = run("predict", ".", "--url", server.url, "--json", cwd=photos)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "regnetx: ./c.webp: err_no 10000: not an image",
        "regnetx: ./empty.jpg: 0 bytes, not an image",
        "regnetx: 2 of 6 images failed",
    ]
    results = {line["image"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(results) == 6
    assert results["./c.webp"] == {"image": "./c.webp", "error": "err_no 10000: not an image"}
    assert results["./b.PNG"]["predictions"][0]["label"] == label("b.PNG")


def test_a_bad_image_of_a_batch_costs_the_others_nothing(photos: Path, server: Gateway) -> None:
    server.refuse = refusing(b"c.webp")
    done = run("predict", ".", "--url", server.url, "--batch", "5", cwd=photos)
    assert done.returncode == 1
    assert [line.split("\t")[3] for line in done.stdout.splitlines()] == [
        label(name) for name in ("a.jpg", "b.PNG", "more/e.bmp", "more/deep/d.jpeg")
    ]
    assert len(server.requests[0][2]["key"]) == 5


def test_a_file_that_cannot_be_read_is_one_that_failed(photos: Path, server: Gateway) -> None:
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    done = run("predict", ".", "--url", server.url, "--batch", "3", cwd=photos)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "regnetx: ./gone.jpg: No such file or directory"
    assert len(done.stdout.splitlines()) == 5


def test_many_images_are_asked_together_but_not_more_than_allowed(tmp_path: Path, server: Gateway) -> None:
    lock, together, most, all_in = threading.Lock(), [0], [0], threading.Barrier(4)

    def refuse(values: list[str]) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        all_in.wait(30)
        with lock:
            together[0] -= 1

    server.refuse = refuse
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(bytes([number]))
    done = run("predict", ".", "--url", server.url, "--concurrency", "4", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split("\t")[3] for line in done.stdout.splitlines()] == [
        LABELS[class_of(bytes([number]))] for number in range(40)
    ]
    assert most[0] == 4


def test_a_server_that_refuses_for_a_moment_is_asked_again(photos: Path, server: Gateway) -> None:
    server.refuse = lambda values: (429, {"retry-after": "0"}, b"") if len(server.requests) <= 3 else None
    assert run("predict", "a.jpg", "--url", server.url, cwd=photos).returncode == 0
    assert len(server.requests) == 4
    server.requests.clear()
    assert run("predict", "a.jpg", "--url", server.url, "--retries", "0", cwd=photos).returncode == 1


def test_a_server_that_is_not_there_is_told_once(photos: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run("predict", ".", "--url", url, "--retries", "0", cwd=photos)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"regnetx: {url}: ")


USAGE = [
    (["predict"], "the following arguments are required: PATH (see regnetx predict --help)"),
    (["predict", "missing.jpg"], "no file or folder 'missing.jpg'"),
    (["predict", "*.tiff"], "no image matches '*.tiff' (looked for .jpg .jpeg .png .webp .bmp .gif)"),
    (["predict", "more/empty"], "no images in folder 'more/empty' (looked for .jpg .jpeg .png .webp .bmp .gif)"),
    (["predict", "a.jpg", "--top-k", "0"], "argument --top-k: '0' is not a whole number from 1 on"),
    (["predict", "a.jpg", "--batch", "x"], "argument --batch: 'x' is not a whole number from 1 on"),
    (["predict", "a.jpg", "--retries", "-1"], "argument --retries: '-1' is not a whole number from 0 on"),
    (["predict", "a.jpg", "--timeout", "0"], "argument --timeout: '0' is not a positive number of seconds, nor 'none'"),
    (["predict", "a.jpg", "--url", "host:1"], "url 'host:1' is not like http://localhost:18080"),
    (["predict", "a.jpg", "--grpc", "--address", "http://h"], "address 'http://h' is not like localhost:9993"),
    (["predict", "a.jpg", "--grpc", "--url", "http://h"], "--url belongs to HTTP, with --grpc say --address HOST:PORT"),
    (["predict", "a.jpg", "--address", "h:1"], "--address belongs to gRPC, say --grpc too, or --url for HTTP"),
    (["predict", "a.jpg", "--json", "--csv"], "argument --csv: not allowed with argument --json"),
    (["predict", "a.jpg", "--top", "5"], "unrecognized arguments: --top 5"),
    ([], "the following arguments are required: COMMAND"),
    (["guess"], "argument COMMAND: invalid choice: 'guess'"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(given) or "nothing" for given, _ in USAGE])
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (photos / "more" / "empty").mkdir()
    monkeypatch.chdir(photos)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"regnetx: {message}")
    assert len(err.splitlines()) == 1


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"regnetx-client {regnetx_client.__version__}\n")


def interrupted(arguments: list[str], cwd: Path, entered: threading.Event) -> tuple[int, str]:
    """Runs the command, presses Ctrl-C once a request is at the server; returns its status and stderr."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=ENVIRONMENT
    )
    assert entered.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_ctrl_c_ends_it_cleanly(photos: Path, server: Gateway) -> None:
    entered, leave = threading.Event(), threading.Event()
    server.refuse = lambda values: entered.set() or (leave.wait(60) and None)
    status, err = interrupted(["predict", ".", "--url", server.url, "--timeout", "none"], photos, entered)
    leave.set()
    assert (status, err) == (130, "regnetx: interrupted\n")


def test_ctrl_c_ends_it_cleanly_over_grpc(photos: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    with pipeline() as server:
        server.respond = lambda *_: entered.set() or (leave.wait(60) and None)
        status, err = interrupted(["predict", ".", "--grpc", "--address", server.address], photos, entered)
        leave.set()
    assert (status, err) == (130, "regnetx: interrupted\n")


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_reader_that_goes_away_ends_it_quietly(form: list[str], photos: Path, server: Gateway) -> None:
    process = subprocess.Popen(
        [*COMMAND, "predict", ".", "--url", server.url, *form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=photos,
        env=ENVIRONMENT,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (1, b"")


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_disk_that_is_full_is_one_line(form: list[str], photos: Path, server: Gateway) -> None:
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "predict", ".", "--url", server.url, *form]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=photos, env=ENVIRONMENT, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "regnetx: the results cannot be written: No space left on device\n")


def test_a_stdout_that_is_closed_costs_nothing_but_the_results(photos: Path, server: Gateway) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "predict", ".", "--url", server.url]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=photos, env=ENVIRONMENT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# --- over gRPC -----------------------------------------------------------------------------------


def test_grpc_gives_the_same_lines(photos: Path, server: Gateway) -> None:
    over_http = run("predict", ".", "--url", server.url, "--top-k", "3", cwd=photos)
    with pipeline(knows_top_k=True) as other:
        over_grpc = run("predict", ".", "--grpc", "--address", other.address, "--top-k", "3", cwd=photos)
    assert over_grpc.returncode == 0
    assert over_grpc.stdout == over_http.stdout != ""


def test_over_grpc_too_no_more_are_asked_together_than_allowed(photos: Path) -> None:
    lock, together, most = threading.Lock(), [0], [0]

    def respond(request: object, context: object) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        all_in.wait(30)
        with lock:
            together[0] -= 1

    (photos / "f.png").write_bytes(b"f")
    all_in = threading.Barrier(2)
    with pipeline() as server:
        server.respond = respond
        command = ["predict", ".", "--grpc", "--address", server.address, "--concurrency", "2"]
        assert run(*command, cwd=photos).returncode == 0
    assert most[0] == 2


def test_grpc_without_its_extra_is_one_line(photos: Path) -> None:
    code = "import sys; sys.modules['grpc'] = None\nfrom regnetx_client.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "predict", "a.jpg", "--grpc"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=photos, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("regnetx: gRPC needs the extra 'grpc': pip install 'regnetx-client[grpc]'")
    assert len(done.stderr.splitlines()) == 1
