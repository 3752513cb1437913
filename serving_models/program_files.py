"""The program file of an inference model -> its graph; read as data, nothing is run.

Two formats: ``ProgramDesc`` (paddle/fluid/framework/framework.proto), in ``.pdmodel`` and ``__model__`` files, and
Paddle 3's PIR as JSON (paddle/fluid/pir/serialize_deserialize), in ``inference.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from service.errors import ModelError, short, shown
from serving_models.graph import Graph, Node, Shape
from serving_models.paddle_runtime import program_format

_MAIN_OUTPUTS = ("Output", "Y", "Out")
# PIR knows operands by position only; their names as in ProgramDesc.
_ROLES = {
    "conv2d": ("Input", "Filter"),
    "batch_norm": ("X", "Mean", "Variance", "Scale", "Bias"),
    "add": ("X", "Y"),
    "matmul": ("X", "Y"),
}
_SAME_KIND = {
    "elementwise_add": "add",
    "matmul_v2": "matmul",
    "mul": "matmul",
    "reshape2": "reshape",
    "flatten_contiguous_range": "flatten",
    "flatten2": "flatten",
    "batch_norm_": "batch_norm",
}


def read_program(path: Path) -> Graph:
    """The graph of a program file of either format.

    Raises ModelError for anything else, naming what was found.
    """
    content = path.read_bytes()
    if not content:
        raise ModelError(f"{path}: an empty file; accepted is a program as paddle.jit.save writes it")
    if path.suffix == ".json":
        return _read_pir(path, content)
    return _read_program_desc(path, content)


def _read_program_desc(path: Path, content: bytes) -> Graph:
    program = program_format.ProgramDesc()
    try:
        program.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path}: damaged, cut short or no Paddle program (its protobuf cannot be parsed)") from None
    if len(program.blocks) != 1:
        raise ModelError(f"{path}: a program of {len(program.blocks)} blocks; an image classifier has 1")
    block = program.blocks[0]
    _refuse_broken_text(path, block)
    operators = [operator for operator in block.ops if operator.type not in ("feed", "fetch")]
    shapes = {variable.name: tuple(variable.type.dense_tensor.tensor.dims) for variable in block.vars}
    persistable = {v.name: shapes[v.name] for v in block.vars if v.persistable and v.name not in ("feed", "fetch")}
    return Graph(
        feeds={name: shapes.get(name, ()) for name in _ends(block.ops, "feed")},
        fetches=tuple(_ends(block.ops, "fetch")),
        parameters=persistable,
        nodes=tuple(_node(operator) for operator in operators),
    )


def _refuse_broken_text(path: Path, block: Any) -> None:
    # proto2 hands over what is not UTF-8 as bytes.
    names = [variable.name for variable in block.vars] + [operator.type for operator in block.ops]
    broken = next((name for name in names if not isinstance(name, str)), None)
    if broken is not None:
        raise ModelError(f"{path}: damaged, the name {shown(broken)} in it is not text")


def _ends(operators: Any, kind: str) -> list[str]:
    """The names that feed operators write, or fetch operators read."""
    found = [operator for operator in operators if operator.type == kind]
    slots = [operator.outputs if kind == "feed" else operator.inputs for operator in found]
    return [name for slot in slots for variable in slot for name in variable.arguments]


def _node(operator: Any) -> Node:
    outputs = {variable.parameter: variable.arguments for variable in operator.outputs}
    main = next((outputs[role][0] for role in _MAIN_OUTPUTS if outputs.get(role)), "")
    return Node(
        kind=_SAME_KIND.get(operator.type, operator.type),
        inputs={slot.parameter: slot.arguments[0] for slot in operator.inputs if slot.arguments},
        output=main,
        attributes={attribute.name: _attribute(attribute) for attribute in operator.attrs},
    )


def _attribute(attribute: Any) -> Any:
    field = {
        program_format.INT: "i",
        program_format.FLOAT: "f",
        program_format.STRING: "s",
        program_format.INTS: "ints",
        program_format.BOOLEAN: "b",
        program_format.LONG: "l",
    }.get(attribute.type)
    value: Any = getattr(attribute, field) if field else None
    return list(value) if field == "ints" else value


def _read_pir(path: Path, content: bytes) -> Graph:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged or cut short, not JSON: {error}") from None
    head = document.get("base_code") if isinstance(document, dict) else None
    if not isinstance(head, dict) or head.get("magic") != "pir":
        raise ModelError(f"{path}: JSON, but no Paddle program (its base_code.magic is not 'pir')")
    try:
        (region,) = document["program"]["regions"]
        (block,) = region["blocks"]
        return _pir_graph(block["ops"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = short(f"{type(error).__name__}: {error}")
        raise ModelError(f"{path}: a Paddle program of an unknown layout ({reason})") from None


def _pir_graph(operators: list[dict[str, Any]]) -> Graph:
    parameters: dict[str, Shape] = {}
    feeds: dict[str, Shape] = {}
    fetches: list[str] = []
    nodes: list[Node] = []
    names: dict[int, str] = {}
    for operator in operators:
        # "1.conv2d": the number stands for the dialect.
        kind = operator["#"].split(".", 1)[-1]
        attributes = {} if kind in ("p", "parameter") else _pir_attributes(operator["A"])
        if kind in ("p", "parameter"):
            name = names[operator["O"]["%"]] = _pir_text(operator["A"][3])
            parameters[name] = _pir_shape(operator["O"])
        elif kind == "data":
            name = names[operator["O"][0]["%"]] = _pir_text(attributes["name"])
            feeds[name] = _pir_shape(operator["O"][0])
        elif kind == "fetch":
            fetches.append(_pir_name(operator["I"][0], names))
        elif kind != "full_int_array":
            nodes.append(_pir_node(kind, operator, names))
    return Graph(feeds, tuple(fetches), parameters, tuple(nodes))


def _pir_node(kind: str, operator: Mapping[str, Any], names: Mapping[int, str]) -> Node:
    kind = _SAME_KIND.get(kind, kind)
    values = [_pir_name(operand, names) for operand in operator["I"]]
    output = _pir_name(operator["O"][0], names) if operator["O"] else ""
    return Node(kind, dict(zip(_ROLES.get(kind, ("X",)), values, strict=False)), output, _pir_attributes(operator["A"]))


def _pir_name(value: Mapping[str, Any], names: Mapping[int, str]) -> str:
    return names.get(value["%"], f"%{value['%']}")


def _pir_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the name {shown(value)} is not text")
    return value


def _pir_shape(value: Mapping[str, Any]) -> Shape:
    return tuple(map(int, value["TT"]["D"][1]))


def _pir_attributes(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["N"]: _pir_attribute(entry["AT"].get("D")) for entry in entries}


def _pir_attribute(value: Any) -> Any:
    if isinstance(value, list):
        return [item.get("D") if isinstance(item, dict) else item for item in value]
    return value
