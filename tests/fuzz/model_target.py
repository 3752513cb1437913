"""The files of models, of ours and of strangers -> the readers of the service and of the export: ModelError or a model.

A case is one line with the kind of file, and the file.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from random import Random

import numpy as np
from fuzz.message_mutation import change, odd_field
from fuzz.mutation import changed_value, json_text, mutated
from fuzz.targets import BrokenPromiseError, Target

from service.errors import ModelError

OUTSIDE = Path("/tmp/regnetx-fuzz-outside")  # what archives try to write
LONGEST = 4000  # characters of a message
MODEL_YML = b"""name: m
architecture: RegNetX_200MF
input: {name: x, dtype: float32, shape: [3, 32, 32], resize_short: 36, interpolation: bilinear, channel_order: RGB,
  scale: 0.5, mean: [0.1, 0.2, 0.3], std: [1.0, 1.0, 1.0]}
output: {name: s, alias: prediction, activation: softmax, classes: 2}
labels: labels.txt
files: {program: serving_server/p.pdmodel, params: serving_server/p.pdiparams}
sha256: {program: aa, params: bb}
"""
CONF = b"""feed_var { name: "x" alias_name: "x" is_lod_tensor: false feed_type: 1 shape: 3 shape: 32 shape: 32 }
fetch_var { name: "s" alias_name: "prediction" is_lod_tensor: false fetch_type: 1 shape: 2 }
"""
INFERENCE_YML = b"""PreProcess:
  transform_ops:
  - DecodeImage: {to_rgb: true, channel_first: false}
  - ResizeImage: {resize_short: 36}
  - CropImage: {size: 32}
  - NormalizeImage: {scale: 1.0/255.0, mean: [0.4, 0.4, 0.4], std: [0.2, 0.2, 0.2], order: ''}
  - ToCHWImage: null
PostProcess: {Topk: {topk: 2, label_list: [a, b]}}
"""


class ModelTarget(Target):
    """Each file alone beside good ones, and archives of them through the export's own door."""

    name = "model"
    batch = 4

    def __init__(self, model: Path) -> None:
        self._program = (model / "inference.pdmodel").read_bytes()

    def seeds(self) -> list[bytes]:
        kinds = {
            b"model.yml": MODEL_YML,
            b"labels.txt": b"a\nb\n",
            b"conf": CONF,
            b"inference.yml": INFERENCE_YML,
            b"pdmodel": self._program,
            b"json": _pir(),
            b"pdparams": _weights(4),
            b"tar": _tar({"m/inference.pdmodel": self._program, "m/inference.pdiparams": bytes(64)}),
        }
        return [
            *(kind + b"\n" + content for kind, content in kinds.items()),
            b"pdparams\n" + _weights(2),
            b"tar\n" + _tar({"m/inference.json": _pir(), "m/inference.pdiparams": b"a"}, "gz"),
        ]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        kind, _, content = random.choice(seeds).partition(b"\n")
        if kind == b"pdmodel" and random.random() < 0.7:
            content = self._changed_program(random)
        elif kind == b"json" and random.random() < 0.7:
            content = json_text(changed_value(json.loads(_pir()), random), random)
        elif kind == b"tar" and random.random() < 0.6:
            content = _odd_tar(random, self._program)
        else:
            content = mutated(content, random, [content, *(one.partition(b"\n")[2] for one in seeds)])
        return kind + b"\n" + content

    def _changed_program(self, random: Random) -> bytes:
        from serving_models.paddle_runtime import program_format

        program = program_format.ProgramDesc.FromString(self._program)
        for _ in range(random.choice((1, 1, 2, 4))):
            change(program, random)
        found = program.SerializePartialToString()
        return found + odd_field(random) if random.random() < 0.3 else found

    def open(self, folder: Path) -> None:
        # Imported here, for Paddle is slow to load and only the process that checks needs it.
        from serving_models import inference_yml, program_files, recognition, sources, weights

        self._readers = {
            "pdparams": weights.read_weights,
            "inference.yml": inference_yml.read_inference_yml,
            "json": lambda file: recognition.recognise(program_files.read_program(file), file),
            "pdmodel": lambda file: recognition.recognise(program_files.read_program(file), file),
            "tar": lambda file: sources.open_source(str(file), self._home / "unpacked", None),
        }
        self._folder = folder
        self._home = folder / "home"

    def check(self, cases: list[bytes]) -> None:
        for case in cases:
            kind, _, content = case.partition(b"\n")
            shutil.rmtree(self._home, ignore_errors=True)
            self._home.mkdir()
            try:
                self._read(kind.decode("latin-1"), content)
            except ModelError as error:
                _check_message(str(error))
            outside = [path.name for path in self._folder.iterdir() if path != self._home]
            outside += [str(OUTSIDE)] if OUTSIDE.exists() else []
            if outside:
                raise BrokenPromiseError(f"files outside of the target: {outside}")

    def _read(self, kind: str, content: bytes) -> None:
        if kind in ("model.yml", "labels.txt", "conf"):
            return self._load(kind, content)
        file = self._home / {"json": "inference.json", "tar": "m.tar", "pdparams": "m.pdparams"}.get(kind, kind)
        file.write_bytes(content)
        self._readers.get(kind, self._readers["tar"])(file)
        return None

    def _load(self, kind: str, content: bytes) -> None:
        from service.ops.model import load_model

        server = self._home / "m/serving_server"
        server.mkdir(parents=True)
        files = {"model.yml": MODEL_YML, "labels.txt": b"a\nb\n"} | {kind: content}
        if kind == "conf":
            files = {"serving_server/serving_server_conf.prototxt": content}
        for name, text in files.items():
            (self._home / "m" / name).write_bytes(text)
        for name in ("p.pdmodel", "p.pdiparams"):
            (server / name).write_bytes(b"x")
        load_model(server)


def _check_message(text: str) -> None:
    if not text or len(text) > LONGEST or not text.isprintable():
        raise BrokenPromiseError(f"a message of {len(text)} characters that is no short line: {text[:300]!r}")


def _weights(protocol: int) -> bytes:
    arrays = {"out.weight": np.ones((4, 2), np.float32), "out.bias": np.ones(2, np.float32)}
    return pickle.dumps({**arrays, "StructuredToParameterName@@": {"out.bias": "b"}}, protocol)


def _pir() -> bytes:
    """A program of two operators in Paddle 3's JSON."""
    kind = {"TT": {"D": [{"#": "0.t_f32"}, [-1, 3, 32, 32], "NCHW", [], 0]}}
    name = {"N": "name", "AT": {"#": "0.a_str", "D": "x"}}
    operators = [
        {"#": "p", "A": [0, 0, 0, "w"], "O": {"%": 1, **kind}},
        {"#": "1.data", "A": [name], "I": [], "O": [{"%": 2, **kind}]},
        {"#": "1.conv2d", "A": [{"N": "strides", "AT": {"D": [{"D": 2}, {"D": 2}]}}], "I": [{"%": 2}, {"%": 1}],
         "O": [{"%": 3, **kind}]},
        {"#": "1.fetch", "A": [], "I": [{"%": 3}], "O": []},
    ]  # fmt: skip
    program = {"regions": [{"blocks": [{"ops": operators}]}]}
    return json.dumps({"base_code": {"magic": "pir", "version": 1}, "program": program}).encode()


def _tar(files: dict[str, bytes], compression: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _odd_tar(random: Random, program: bytes) -> bytes:
    """Members that leave the folder, links, devices, sparse and long names, a name twice, a file that is a folder."""
    kinds = (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    kinds += (tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z")
    names = ("../outside", str(OUTSIDE), "m/../../outside", "m", "m/inference.pdmodel", "m/x", ".", "")
    names += (
        "m/" + "x" * 300,
        "m/" + "d/" * 120 + "f",
        "m/a\0b",
        "m/\udcff",
        "m/inference.yml",
        "m/inference.pdiparams",
    )
    buffer = io.BytesIO()
    how = random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w:", format=how, errors="surrogateescape") as tar:
        for _ in range(random.randrange(1, 5)):
            member = tarfile.TarInfo(random.choice(names))
            member.type, member.linkname = random.choice(kinds), random.choice(names)
            content = random.choice((b"", b"x", INFERENCE_YML, program)) if member.isreg() else b""
            member.size, member.mode = len(content), random.choice((0, 0o7777, 0o644))
            try:
                tar.addfile(member, io.BytesIO(content))
            except (ValueError, tarfile.TarError):  # what cannot be written cannot be sent either
                continue
    return mutated(buffer.getvalue(), random) if random.random() < 0.3 else buffer.getvalue()
