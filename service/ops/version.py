"""Which model it is: a short name that differs as soon as anything differs that an answer depends on."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

from service.ops.content import sha256_of
from service.ops.model import Model, expected_sha256

DIGITS = 12


def version_of(model: Model) -> str:
    """The first DIGITS hexadecimal digits of a SHA-256 over the facts of ``model.yml``, the labels, and the SHA-256 of
    program, parameters and ONNX file: equal wherever the same model is served.

    Of our models these are the recorded ones, which verify_files checks. Raises ModelError where a file of another
    cannot be read.
    """
    recorded = expected_sha256(model)
    contents = [
        sha256_of(file) if recorded is None else recorded.text(key).lower()
        for key, file in (("program", model.program), ("params", model.params), ("onnx", model.onnx))
        if file is not None
    ]
    facts = [getattr(model, field.name) for field in fields(model)]
    told = repr([*contents, *(fact for fact in facts if fact is not None and not isinstance(fact, Path))])
    return hashlib.sha256(told.encode()).hexdigest()[:DIGITS]
