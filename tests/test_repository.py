"""What stands in two places says the same, and what must not stand anywhere does not."""

from __future__ import annotations

import re
import tomllib

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from running import ROOT

from regnetx_client import __version__ as client_version
from regnetx_client.wire import pipeline_service_pb2 as wire
from service import __version__

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROTO = "regnetx_client/wire/pipeline_service.proto"


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert __version__ == client_version == project["version"] == newest[1]


def test_the_generated_stubs_are_those_of_the_proto_file(tmp_path):
    out = tmp_path / "descriptor"
    assert protoc.main(["protoc", f"-I{ROOT / 'client'}", f"--descriptor_set_out={out}", PROTO]) == 0
    [of_file] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    of_stubs = descriptor_pb2.FileDescriptorProto()
    wire.DESCRIPTOR.CopyToProto(of_stubs)
    of_file.ClearField("source_code_info")
    for message in of_file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    for message in of_stubs.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert of_file == of_stubs


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.name for lock in LOCKS])
def test_a_lock_pins_and_hashes_everything_and_holds_no_address(lock):
    text = lock.read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    requirements = re.findall(r"^[a-zA-Z0-9].*$", text, re.MULTILINE)
    assert requirements and all("==" in requirement for requirement in requirements)
    assert text.count("--hash=sha256:") >= len(requirements)


def test_what_the_tests_run_with_is_what_is_served_with():
    def pins(name):
        text = (ROOT / f"requirements/{name}.txt").read_text()
        return set(re.findall(r"^([a-zA-Z0-9._-]+==\S+)", text, re.MULTILINE))

    assert pins("native") <= pins("test")
