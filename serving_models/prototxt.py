"""Paddle Serving's description of a model's input and output, as text and in binary.

``GeneralModelConfig`` of core/configure/proto/general_model_config.proto (proto2), Paddle Serving 0.9.0. The message is
built at run time, in a pool of its own: in one process with the stock packages it cannot clash with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

FLOAT32 = 1
_PACKAGE = "baidu.paddle_serving.configure"
_FIELD = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True)
class Variable:
    """One float32 input or output: its name in the program, its name on the wire, its shape without the batch."""

    name: str
    alias: str
    shape: Sequence[int]


def general_model_config(feed: Variable, fetch: Variable) -> Any:
    """The message for one input and one output."""
    config = _message_class()()
    for entry, variable in ((config.feed_var.add(), feed), (config.fetch_var.add(), fetch)):
        entry.name = variable.name
        entry.alias_name = variable.alias
        entry.is_lod_tensor = False
        entry.shape.extend(variable.shape)
    config.feed_var[0].feed_type = FLOAT32
    config.fetch_var[0].fetch_type = FLOAT32
    return config


def to_text(config: Any) -> str:
    """As stock's ``*_conf.prototxt``, which its servers and clients read by text_format."""
    return text_format.MessageToString(config)


def from_text(text: str) -> Any:
    """The message of a ``*_conf.prototxt``."""
    return text_format.Parse(text, _message_class()())


def from_binary(content: bytes) -> Any:
    """The message of a ``*_conf.stream.prototxt``."""
    return _message_class().FromString(content)


@cache
def _message_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.GeneralModelConfig"))


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="general_model_config.proto", package=_PACKAGE, syntax="proto2")
    _add_variable(file, "FeedVar", "feed_type")
    _add_variable(file, "FetchVar", "fetch_type")
    config = file.message_type.add(name="GeneralModelConfig")
    for number, (name, kind) in enumerate((("feed_var", "FeedVar"), ("fetch_var", "FetchVar")), start=1):
        config.field.add(
            name=name,
            number=number,
            label=_FIELD.LABEL_REPEATED,
            type=_FIELD.TYPE_MESSAGE,
            type_name=f".{_PACKAGE}.{kind}",
        )
    return file


def _add_variable(file: descriptor_pb2.FileDescriptorProto, name: str, type_field: str) -> None:
    message = file.message_type.add(name=name)
    fields = (
        ("name", _FIELD.TYPE_STRING, _FIELD.LABEL_REQUIRED, None),
        ("alias_name", _FIELD.TYPE_STRING, _FIELD.LABEL_REQUIRED, None),
        ("is_lod_tensor", _FIELD.TYPE_BOOL, _FIELD.LABEL_OPTIONAL, "false"),
        (type_field, _FIELD.TYPE_INT32, _FIELD.LABEL_OPTIONAL, "0"),
        ("shape", _FIELD.TYPE_INT32, _FIELD.LABEL_REPEATED, None),
    )
    for number, (field, kind, label, default) in enumerate(fields, start=1):
        message.field.add(name=field, number=number, type=kind, label=label, default_value=default)
