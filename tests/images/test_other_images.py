"""Export, the stock runtime, and the GPU image as far as it goes without a GPU."""

from __future__ import annotations

import pytest
from command import CommandError
from containers import HARDENED, ROOT, running, serving

WEIGHTS = ROOT / "serving_models/bundled/digits/RegNetX_200MF_digits.pdparams"
MODEL = "REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG"
# Paddle's own functions that open a library of CUDA: they abort where it is not found.
LOADERS = """
import ctypes, pathlib, warnings
warnings.simplefilter("ignore")
import paddle
phi = ctypes.CDLL(str(next(pathlib.Path(paddle.__path__[0]).glob("libs/libphi.so"))))
for name in ("Cublas", "CublasLt", "CUDNN", "CUFFT", "Curand", "Cusolver", "Cusparse", "NVRTC"):
    open_it = getattr(phi, f"_ZN3phi7dynload{len(name) + 12}Get{name}DsoHandleEv")
    open_it.restype = ctypes.c_void_p
    print(name, bool(open_it()))
"""


def test_export_writes_a_serving_model_into_a_mounted_folder_as_a_plain_user(docker, images, cpu, tmp_path):
    folder = _open_folder(tmp_path)
    docker.docker(
        "run", "--rm", *HARDENED, "--network=none", f"--volume={WEIGHTS}:/weights/{WEIGHTS.name}:ro",
        f"--volume={folder}:/models", images["export"], "export", f"/weights/{WEIGHTS.name}", "--name", "mine", "--to", "/models",
        seconds=300,
    )  # fmt: skip
    assert (folder / "mine/serving_server/inference.pdmodel").stat().st_uid == 10001
    with serving(docker, cpu, f"--volume={folder}:/models:ro", f"--env={MODEL}=/models/mine") as container:
        assert container.ask()[0] == 200
        assert "ready: mine (RegNetX_200MF, 10 classes)" in container.logs()


def test_export_into_a_folder_that_is_not_writable_says_so_in_one_line(docker, images, tmp_path):
    folder = _open_folder(tmp_path)
    folder.chmod(0o755)
    with pytest.raises(CommandError) as refused:
        docker.docker(
            "run", "--rm", *HARDENED, f"--volume={WEIGHTS}:/weights/{WEIGHTS.name}:ro", f"--volume={folder}:/models",
            images["export"], "export", f"/weights/{WEIGHTS.name}", "--name", "mine", "--to", "/models", seconds=300,
        )  # fmt: skip
    lines = str(refused.value).splitlines()
    assert lines[-1].startswith("error: /models") and "Permission denied" in lines[-1]
    assert "Traceback" not in str(refused.value)


def test_the_stock_runtime_answers_hardened_and_ends_with_0(docker, stock_image):
    with serving(docker, stock_image) as container:
        assert container.label() == "['seven']"
        docker.docker("stop", container.name)
        assert container.wait() == 0


def test_the_gpu_image_answers_on_the_cpu(docker, gpu_image):
    """The same layers, Paddle 2.6.2 and all: only the device is another."""
    with serving(docker, gpu_image, "--env=REGNETX__OP__LOCAL_SERVICE_CONF__DEVICE_TYPE=0") as container:
        assert container.label() == "['seven']"


def test_paddle_finds_every_library_of_cuda_in_the_gpu_image(docker, gpu_image):
    found = docker.docker("run", "--rm", "--entrypoint", "python", gpu_image, "-c", LOADERS, seconds=120)
    assert {line.split()[1] for line in found.splitlines()} == {"True"}
    assert len(found.splitlines()) == 8


def test_the_gpu_image_says_in_one_sentence_that_there_is_no_gpu(docker, gpu_image):
    with running(docker, gpu_image, *HARDENED) as container:
        assert container.wait(120) == 2
        [line] = [line for line in container.logs().splitlines() if not line.startswith("admin: ")]
        assert line.startswith("regnetx: ") and "no GPU is visible; accepted: 0" in line


def test_the_gpu_image_takes_another_paddle_by_build_argument(docker, images, gpu_image):
    """The CPU wheel stands for one of an index that is not reachable here."""
    images.build("gpu", "--build-arg", "PADDLE=paddlepaddle==3.3.1")
    version = ("-W", "ignore", "-c", "import paddle; print(paddle.__version__)")
    said = docker.docker("run", "--rm", "--entrypoint", "python", gpu_image, *version)
    assert said.strip() == "3.3.1"


def _open_folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
