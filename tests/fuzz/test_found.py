"""What fuzzing, and reading for it, have found, once each: refused now with the documented error."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from regnetx_client.errors import ProtocolError
from regnetx_client.http_messages import Reply, answer_from
from regnetx_client.predictions import ranked
from service.config import load_config
from service.errors import ConfigError, ModelError
from service.ops.converted import read_converted
from service.ops.facts import read_facts
from serving_models import archive
from serving_models.graph import Graph, Node
from serving_models.inference_yml import read_inference_yml
from serving_models.recognition import recognise

STUMBLING = ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x"]
BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(tmp_path: Path, text: str, **environment: str) -> str:
    file = tmp_path / "config.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, environment)
    return str(caught.value)


@pytest.mark.parametrize("text", STUMBLING)
def test_a_yaml_tag_over_which_the_parser_stumbles_is_an_error_of_the_file_or_the_variable(tmp_path, text):
    assert "not YAML" in refusal(tmp_path, f"http_port: {text}")
    assert "REGNETX__HTTP_PORT" in refusal(tmp_path, "http_port: 1", REGNETX__HTTP_PORT=text)
    (tmp_path / "model.yml").write_text(f"name: {text}")
    for reader in (read_facts, read_inference_yml):
        with pytest.raises(ModelError, match="not YAML"):
            reader(tmp_path / "model.yml")


def test_aliases_that_multiply_are_refused_with_a_short_line(tmp_path):
    text = refusal(tmp_path, f"{BILLION}http_port: *i\n")
    assert max(map(len, text.split("\n"))) < 2000


def test_a_key_with_a_line_break_is_told_in_one_line(tmp_path):
    lines = refusal(tmp_path, 'http_port: 1\nop: {"a\\nb": {}}').split("\n")
    assert all(line.startswith(str(tmp_path)) for line in lines)


@pytest.mark.parametrize(
    "answer",
    ['{"key": [], "value": [], "err_no": 1e999, "err_msg": ""}', '{"key": 5, "value": [], "err_no": 0, "err_msg": ""}'],
)
def test_an_answer_with_a_number_beyond_all_numbers_is_none_of_the_protocol(answer):
    with pytest.raises(ProtocolError):
        answer_from(Reply(200, {}, answer.encode()))


def test_keys_that_are_no_text_and_class_ids_without_end_are_none_of_the_protocol():
    answer = answer_from(Reply(200, {}, b'{"key": [1, "a", null], "value": ["", "", ""], "err_no": 0, "err_msg": ""}'))
    with pytest.raises(ProtocolError):
        ranked(answer.values, 1)
    with pytest.raises(ProtocolError):
        ranked({"top_k": json.dumps([[{"class_id": float("inf"), "label": "a", "prob": 1}]])}, 1)


@pytest.mark.parametrize(
    "transform", ["{null: {}}", "{ResizeImage: {1: 2, a: 3}}", f"{{NormalizeImage: {{mean: [1{'0' * 400}, 1, 1]}}}}"]
)
def test_transforms_with_odd_keys_and_numbers_are_refused(tmp_path, transform):
    file = tmp_path / "inference.yml"
    file.write_text(f"PreProcess: {{transform_ops: [{transform}]}}")
    with pytest.raises(ModelError):
        read_inference_yml(file)


@pytest.mark.parametrize("classes", ["9999999999", "9" * 5000, "--5"])
def test_a_converted_model_of_more_classes_than_memory_is_refused(tmp_path, classes):
    feed = 'feed_var { name: "x" feed_type: 1 shape: 3 shape: 32 shape: 32 }'
    (tmp_path / "serving_server_conf.prototxt").write_text(
        f'{feed}\nfetch_var {{ name: "s" fetch_type: 1 shape: {classes} }}'
    )
    with pytest.raises(ModelError, match="fetch_var"):
        read_converted(tmp_path)


def test_a_number_of_hundreds_of_digits_in_model_yml_is_refused(tmp_path):
    (tmp_path / "model.yml").write_text(f"scale: 1{'0' * 400}")
    with pytest.raises(ModelError, match="scale"):
        read_facts(tmp_path / "model.yml").positive("scale")


@pytest.mark.parametrize("names", [["m", "m/x"], ["m/x", "m"], ["x" * 300]])
def test_members_that_cannot_stand_beside_each_other_are_refused(tmp_path, names):
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ModelError, match=r"m\.tar: a member cannot be unpacked"):
        archive.extract(tmp_path / "m.tar", tmp_path / "folder")


@pytest.mark.parametrize("op", ['{"a\\nb": 0.5}', f"{{? {'x' * 5000} : 5}}", "{1: 2}"])
def test_a_variable_over_an_op_that_is_no_mapping_is_told_in_one_short_line(tmp_path, op):
    text = refusal(tmp_path, f"http_port: 1\nop: {op}", REGNETX__OP__TIMEOUT="1")
    assert text.isprintable() and len(text) < 400 and "accepted: a mapping" in text


def test_a_whole_number_that_python_does_not_write_out_is_refused_by_its_size(tmp_path):
    number = f"0x{'f' * 5000}"
    assert "20000 bits is not accepted" in refusal(tmp_path, f"http_port: {number}")
    assert "20000 bits is not accepted" in refusal(tmp_path, "http_port: 1", REGNETX__HTTP_PORT=number)
    (tmp_path / "model.yml").write_text(f"scale: [{number}]")
    with pytest.raises(ModelError, match="20000 bits"):
        read_facts(tmp_path / "model.yml").positive("scale")


@pytest.mark.parametrize(
    "text",
    [
        f"PostProcess: {{Topk: {{label_list: [0x{'f' * 5000}]}}}}",
        f"PreProcess: {{transform_ops: [NormalizeImage: {{scale: 0x{'f' * 5000}}}]}}",
        f"PreProcess: {{transform_ops: [ResizeImage: {{0x{'f' * 5000}: 1}}]}}",
        f"{BILLION}PostProcess: {{Topk: {{label_list: [*i]}}}}",
        f"{BILLION}PostProcess: {{Topk: {{class_id_map_file: *i}}}}",
        f"{BILLION}PreProcess: {{transform_ops: [NormalizeImage: {{scale: *i}}]}}",
        f"{BILLION}PreProcess: {{transform_ops: [CropImage: {{size: *i}}]}}",
    ],
)
def test_an_inference_yml_with_values_without_end_is_refused_with_a_short_line(tmp_path, text):
    (tmp_path / "inference.yml").write_text(text)
    with pytest.raises(ModelError) as caught:
        read_inference_yml(tmp_path / "inference.yml")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_aliases_that_multiply_in_model_yml_are_refused_with_a_short_line(tmp_path):
    (tmp_path / "model.yml").write_text(f"{BILLION}name: *i\n")
    with pytest.raises(ModelError) as caught:
        read_facts(tmp_path / "model.yml").text("name")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("foreign", ["9" * 5000, "a\nb\x1b[2J"])
def test_names_of_a_program_are_told_in_one_short_line(tmp_path, foreign):
    nodes = (Node(foreign, {"X": foreign}, foreign),)
    for feeds in ({foreign: (-1, 3, 32, 32)}, {foreign: (1,) * 5000}, dict.fromkeys([foreign, "b"], (1,))):
        with pytest.raises(ModelError) as caught:
            recognise(Graph(feeds, (foreign,), {}, nodes), tmp_path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


def test_an_archive_that_asks_for_more_memory_than_there_is_is_refused(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    (tmp_path / "m.tar").write_bytes(b"")
    monkeypatch.setattr("tarfile.open", no_memory)  # what its readers let through; no memory need be taken here
    with pytest.raises(ModelError, match="more memory than there is"):
        archive.check(tmp_path / "m.tar")
