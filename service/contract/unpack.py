"""A request, from either door -> its images in order, still encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.contract.encoded_image import PROFILE_KEY, EncodedImage, image_of, shown
from service.contract.npy import Array, read_npy
from service.contract.request import AnyRequest, AnyTensor, Upload
from service.errors import ImageError, RpcPackageError, ServiceNameError

_STRING, _BYTES, _UINT8 = 12, 13, 7
# No .npy file and no pickle that numpy writes begins like one of the accepted images
_IMAGE_FILES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
_STEP = 1 << 16
_UNSUPPORTED = (10, 11)  # complex64, complex128
# elem_type -> the dtype and the field that holds the data (operator.py, proto_tensor_2_numpy)
_ARRAYS = {
    0: ("int64", "int64_data"),
    1: ("float32", "float_data"),
    2: ("int32", "int_data"),
    3: ("float64", "float64_data"),
    4: ("int16", "int_data"),
    5: ("float16", "float_data"),
    6: ("bfloat16", "uint32_data"),
    7: ("uint8", "uint32_data"),
    8: ("int8", "int_data"),
    9: ("bool", "bool_data"),
}


def unpack(request: AnyRequest | Upload, service_name: str) -> Sequence[EncodedImage]:
    """Every key is an image but ``pipeline.profile``; of a key given twice the last value counts, at the first's place.

    A text is the base64 of an image file; a 1-d uint8 array, bytes of an image and the files of an Upload are it.
    Raises ServiceNameError for another service's name, RpcPackageError for parts that do not fit together and
    ImageError for what is no image or when there is none.
    """
    if request.name and request.name != service_name:
        raise ServiceNameError("Failed to inference: Service name error.")
    return request.images if isinstance(request, Upload) else _images_of(request)


def _images_of(request: AnyRequest) -> list[EncodedImage]:
    keys, values = request.key, request.value
    if len(values) < len(keys):
        raise RpcPackageError(f"list index ({len(values)}) out of range")
    entries: dict[str, str | Array] = dict(zip(keys, values, strict=False))
    for tensor in request.tensors:
        entries.update(_entries_of(tensor))
    images = [image_of(key, value) for key, value in entries.items() if key != PROFILE_KEY]
    if not images:
        raise ImageError("need at least one array to concatenate")
    return images


def _entries_of(tensor: AnyTensor) -> dict[str, str | Array]:
    kind = tensor.elem_type
    if kind == _STRING:
        return {tensor.name: "".join(tensor.str_data)}
    if kind in _UNSUPPORTED:
        raise RpcPackageError(f"Sorry, the type {kind} of tensor {shown(tensor.name)} is not supported.")
    if kind not in _ARRAYS and kind != _BYTES:
        raise RpcPackageError(f"elem_type:{kind} error")
    lod = {f"{tensor.name}.lod": Array("int32", _shape_of(len(tensor.lod), (2, -1)))} if tensor.lod else {}
    array = _array_in(tensor.byte_data) if kind == _BYTES else _array_of(tensor)
    return {tensor.name: array, **lod}


def _array_in(content: bytes) -> Array:
    """Bytes are the image file itself, or a .npy file."""
    return Array("uint8", (len(content),), content) if content.startswith(_IMAGE_FILES) else read_npy(content)


def _array_of(tensor: AnyTensor) -> Array:
    dtype, field = _ARRAYS[tensor.elem_type]
    numbers = getattr(tensor, field)
    shape = _shape_of(len(numbers), tuple(tensor.shape))
    if tensor.elem_type != _UINT8:
        return Array(dtype, shape)
    try:
        return Array(dtype, shape, _bytes_of(numbers))
    except ValueError:
        message = f"tensor {shown(tensor.name)} holds {max(numbers)}, but its elem_type 7 is uint8: 0 to 255"
        raise ImageError(message) from None


def _bytes_of(numbers: Sequence[int]) -> bytes:
    """In steps, between which other threads have their turn. Raises ValueError for what is no byte."""
    return b"".join(bytes(numbers[at : at + _STEP]) for at in range(0, len(numbers), _STEP))


def _shape_of(count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of ``count`` numbers reshaped as told, with numpy's words where that cannot be; moves no data."""
    try:
        return np.broadcast_to(np.uint8(0), (count,)).reshape(shape).shape
    except ValueError as error:
        raise RpcPackageError(str(error)) from None
